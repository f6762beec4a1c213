"""NF4: the code book's values, error bounds, bytes a weight, exact way back, nothing whole kept for the backward
pass.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from tests import tiny
from tunewright.errors import MethodError
from tunewright.models.nf4 import BLOCK, CODES, NF4Linear, compress, dequantise, expand, quantise, quantise_sites
from tunewright.models.sites import discover


def weights(rows: int = 48, columns: int = 96, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


def site_of(model, ending: str):
    return next(s for s in discover(model).sites if s.name.endswith(ending))


def test_codes_are_quantiles_of_a_normal_distribution():
    """Eight of one side, seven of the other and zero, between the quantiles that the paper's authors took as ends."""
    end = 0.9677083
    up, down = norm.ppf(np.linspace(end, 0.5, 9)[:-1]), norm.ppf(np.linspace(end, 0.5, 8)[:-1])
    expected = np.sort(np.concatenate([up, [0.0], -down])) / up.max()
    np.testing.assert_allclose(CODES, expected, atol=5e-7)


def test_errors_are_at_most_half_the_widest_gap_of_a_block():
    w = weights()
    packed, scales = quantise(w)
    error = (dequantise(packed, scales, w.shape) - w).abs().view(-1, BLOCK)
    gap = max(b - a for a, b in zip(CODES, CODES[1:], strict=False)) / 2
    assert bool((error <= (gap + 1e-6) * scales[:, None]).all()) and gap < 0.1521
    rounded = torch.tensor(CODES)[
        (w.view(-1, BLOCK) / scales[:, None])[..., None].sub(torch.tensor(CODES)).abs().argmin(-1)
    ]
    torch.testing.assert_close(
        dequantise(packed, scales, w.shape), (rounded * scales[:, None]).view(w.shape)
    )  # the nearest code


@pytest.mark.parametrize("shape", [(48, 96), (3, 7), (5, 64)])
def test_what_was_quantised_goes_round_exactly(shape):
    w = weights(*shape)
    w[0] = 0.0
    packed, scales = quantise(w)
    whole = dequantise(packed, scales, shape)
    again, same = quantise(whole)
    assert torch.equal(again, packed) and torch.equal(same, scales)
    assert torch.equal(whole[0], torch.zeros(shape[1]))
    assert torch.equal(whole.flatten()[w.abs().argmax()], w.flatten()[w.abs().argmax()])  # a block's largest is exact


def test_scales_in_eight_bits_err_by_half_a_step():
    scales = weights(1, 1000).abs().flatten()
    small, steps, mean = compress(scales)
    assert small.dtype is torch.int8 and steps.shape == (4,)
    assert bool(((expand(small, steps, mean) - scales).abs() <= steps.repeat_interleave(256)[:1000] / 2 + 1e-7).all())


@pytest.mark.parametrize("double, bytes_a_weight", [(False, 0.5625), (True, 0.516)])
def test_bytes_a_weight(double, bytes_a_weight):
    model = tiny.llama(hidden=128)
    site = site_of(model, "layers.0.mlp.up_proj")
    module = NF4Linear(site, double)
    held = sum(b.numel() * b.element_size() for b in module.buffers())
    assert held / site.weight.numel() == pytest.approx(bytes_a_weight, abs=0.003)
    assert not list(module.parameters())


@pytest.mark.parametrize("make, ending", [(tiny.llama, "layers.0.self_attn.q_proj"), (tiny.gpt2, "h.0.mlp.c_fc")])
def test_a_layer_multiplies_by_its_codes_and_comes_back_bit_for_bit(make, ending):
    model = make()
    site = site_of(model, ending)
    before, bias = site.weight.clone(), getattr(site.module, "bias", None)
    x = torch.randn(2, 5, site.in_features, generator=torch.Generator().manual_seed(0), requires_grad=True)
    module = NF4Linear(site, False)
    whole = module.matrix()
    y = module(x)
    torch.testing.assert_close(y, nn.functional.linear(x, whole, bias))
    y.square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * y.detach() @ whole)
    assert torch.equal(module.original, before) and torch.equal(module.plain().weight, before)
    assert type(module.plain()) is type(site.module)
    torch.testing.assert_close(module.plain(whole)(x), y)


def test_no_whole_matrix_is_kept_for_the_backward_pass():
    model = tiny.llama()
    module = NF4Linear(site_of(model, "layers.0.mlp.up_proj"), True)
    x, kept = torch.randn(1, 2, 32, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        module(x).sum()
    assert not [t for t in kept if t.numel() >= module.in_features * module.out_features]


def test_only_linear_layers_are_put_into_four_bits_and_only_once():
    model = tiny.llama()
    structure = discover(model)
    assert quantise_sites(model, structure.linear_sites(), True) == 14
    again = discover(model)
    assert quantise_sites(model, again.linear_sites(), True) == 0
    assert {s.name: s.role for s in again.sites} == {s.name: s.role for s in structure.sites}
    with pytest.raises(MethodError, match="embedding"):
        quantise_sites(model, [s for s in again.sites if s.kind == "embedding"], True)
