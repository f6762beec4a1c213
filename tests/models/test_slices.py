"""A slice of a weight: against the dense product, folded, written and read back; what its backward pass keeps."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from tests import tiny
from tests.methods.driving import logits
from tunewright.errors import MethodError
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees, same_bits
from tunewright.models.delta_format import load_delta, save_delta
from tunewright.models.deltas import attach, form_class
from tunewright.models.slices import Slice


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sliced(side: str) -> tuple[Slice, torch.Tensor]:
    """A slice of a weight [6, 10], and the same change as a whole matrix, made by hand."""
    places = torch.tensor([1, 4])
    values = draw(6, 2) if side == "in" else draw(2, 10)
    whole = torch.zeros(6, 10)
    for k, place in enumerate(places.tolist()):
        if side == "in":
            whole[:, place] = values[:, k]
        else:
            whole[place] = values[k]
    return Slice(places, values.clone(), side, 10 if side == "in" else 6), whole


@pytest.mark.parametrize("side", ["in", "out"])
def test_forward_change_and_gradient_are_the_dense_ones(side):
    delta, whole = sliced(side)
    x, W = draw(3, 5, 10, seed=1).requires_grad_(True), draw(6, 10, seed=2)
    assert torch.equal(delta.change(), whole)
    delta.strength = 0.7
    out = delta(x, linear(x, W))
    dense = whole.clone().requires_grad_(True)
    z = x.detach().clone().requires_grad_(True)
    wanted = linear(z, W + 0.7 * dense)
    torch.testing.assert_close(out, wanted)
    g = draw(3, 5, 6, seed=3)
    out.backward(g)
    wanted.backward(g)
    part = dense.grad[:, delta.places] if side == "in" else dense.grad[delta.places]
    torch.testing.assert_close(delta.values.grad, part)
    torch.testing.assert_close(x.grad, z.grad)


def test_of_a_column_slice_only_the_drawn_inputs_are_kept():
    """[N, in] enters, and [N, k] waits for the backward pass."""
    delta, _ = sliced("in")
    x = draw(7, 10).requires_grad_(True)
    W = draw(6, 10, seed=2)
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.shape), t)[1], lambda t: t):
        delta(x, linear(x, W))
    assert torch.Size([7, 2]) in kept and torch.Size([7, 10]) not in kept


@pytest.mark.parametrize("make, name", [(tiny.llama, "mlp.down_proj"), (tiny.gpt2, "mlp.c_proj")])
@pytest.mark.parametrize("side", ["in", "out"])
def test_folded_dialled_written_and_read_back(make, name, side, tmp_path):
    adapted = Adapted(make())
    for site in adapted.structure.match([name]):
        places = torch.tensor([0, 3, 5])
        values = draw(site.out_features, 3) if side == "in" else draw(3, site.in_features)
        attach(site, "s2ft", Slice(places, values * 0.3, side, site.in_features if side == "in" else site.out_features))
    tuned = logits(adapted.model)
    assert (tuned - logits(make())).abs().max() > 0.1
    with adapted.at_strength(1.0) as model:
        torch.testing.assert_close(logits(model), tuned, atol=1e-4, rtol=1e-4)
    with adapted.base() as model:
        assert agrees(logits(model), logits(make()))
    save_delta(adapted, tmp_path, "tiny")
    again = Adapted(make())
    load_delta(again, tmp_path)
    assert same_bits(logits(again.model), tuned)
    adapted.fold()
    torch.testing.assert_close(logits(adapted.model), tuned, atol=1e-4, rtol=1e-4)
    assert not adapted.deltas() and form_class("slice") is Slice


def test_shapes_that_do_not_go_together_are_refused():
    with pytest.raises(MethodError, match="2 places on the side 'in'"):
        Slice(torch.tensor([0, 1]), torch.zeros(6, 3), "in", 10)
    with pytest.raises(MethodError, match="not 'both'"):
        Slice(torch.tensor([0]), torch.zeros(6, 1), "both", 10)
