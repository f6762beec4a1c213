"""RoSTE: rounding against counting by hand, rotations that change nothing by themselves, straight-through gradients,
choices of each layer by its own errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits, text_rows
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.adapters.roste import RoSTE
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.fake_quantised import FakeQuantised, by_head, rotated, rounded
from tunewright.training import carry

ROWS = text_rows(8)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(listen=None, model=None, beside=None, **fields) -> Run:
    methods = {"roste": RoSTE(samples=8, **fields), **(beside or {})}
    return Run(methods, model=model, listen=listen, steps=6, sources={"new": ROWS})


def changes(run: Run) -> dict[str, FakeQuantised]:
    return {site: d["roste"] for site, d in run.adapted.deltas().items()}


def outlier(model, size: float = 30.0):
    """One channel of what blocks read carries numbers far larger than the others."""
    with torch.no_grad():
        for block in model.model.layers:
            block.input_layernorm.weight[3] *= size
            block.post_attention_layernorm.weight[3] *= size
    return model


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.integers(2, 8), st.sampled_from([1, 3, 8]), st.floats(0.3, 1.0), st.integers(0, 9))
def test_numbers_are_rounded_to_whole_steps_of_their_row(bits, width, clip, seed):
    v = normal(4, width, seed=seed)
    most = 2 ** (bits - 1) - 1
    for row, got in zip(v.double(), rounded(v, bits, clip), strict=True):
        step = clip * float(row.abs().max()) / most
        wanted = [step * min(max(round(float(x) / step), -most - 1), most) for x in row]
        assert got.tolist() == pytest.approx(wanted, abs=1e-5 + step * (0.51 if bits > 7 else 1e-4))
    assert not rounded(torch.zeros(2, 3), bits).any()


@pytest.mark.parametrize("width", [1, 2, 8, 12, 30, 96])
def test_rotations_are_orthogonal_and_their_own_inverse(width):
    H = rotated(torch.eye(width))
    torch.testing.assert_close(H @ H.t(), torch.eye(width), atol=1e-6, rtol=0)
    v = normal(3, width)
    torch.testing.assert_close(rotated(rotated(v)), v, atol=1e-6, rtol=1e-5)
    block = width & -width
    assert H[:block, :block].abs().max() == pytest.approx(block**-0.5) and not H[:block, block:].any()


def test_heads_have_scales_of_their_own():
    y = torch.cat([normal(5, 4), 100 * normal(5, 4, seed=1)], 1)
    for turned in (False, True):
        got = by_head(y, 4, 3, 1.0, turned)
        for part in (slice(0, 4), slice(4, 8)):
            torch.testing.assert_close(got[:, part], by_head(y[:, part], 4, 3, 1.0, turned))
    assert float((by_head(y, 8, 3, 1.0, False) - y)[:, :4].abs().mean()) > 2 * float((got - y)[:, :4].abs().mean())


@pytest.mark.parametrize("maker", [tiny.llama, tiny.gpt2])
def test_in_many_bits_it_is_the_base_whatever_is_rotated(maker):
    for rotations in ("always", "never", "adaptive"):
        run = made(model=maker(), weight_bits=16, input_bits=16, cache_bits=16, rotations=rotations)
        torch.testing.assert_close(logits(run.adapted.model), logits(maker()), atol=2e-3, rtol=2e-3)


def test_gradients_go_straight_through_and_are_turned_back():
    """dL/dW = (dL/dq(WH)) H^T, dL/dx likewise, also where numbers are cut."""
    layer = torch.nn.Linear(12, 5)
    layer.tunewright_transposed = False
    change = FakeQuantised((3, 3, 0), (True, False), 5, 0.5)
    x = normal(7, 12).requires_grad_()
    change.replaced(x, layer).square().sum().backward()
    qx, qW = (rounded(rotated(t.detach()), 3, 0.5).requires_grad_() for t in (x, layer.weight))
    torch.nn.functional.linear(qx, qW, layer.bias).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, rotated(qW.grad), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(x.grad, rotated(qx.grad), atol=1e-4, rtol=1e-4)


def test_each_layer_is_rotated_where_that_rounds_less_and_outliers_make_it_so():
    plain, odd = made(), made(model=outlier(tiny.llama()))
    first = {n: d.turned[0] for n, d in changes(odd).items() if n.endswith(("q_proj", "k_proj", "up_proj"))}
    assert all(first.values()), "the outlier is in their input"
    for run in (plain, odd):
        layers = run.state("roste").data["layers"]
        for name, change in changes(run).items():
            as_it_is, turned, cached, cached_turned = layers[name]["errors"]
            assert change.turned[0] == (turned < as_it_is)
            is_cached = name.endswith(("k_proj", "v_proj"))
            assert change.turned[1] == (is_cached and cached_turned < cached) and bool(change.bits[2]) == is_cached
    assert len({d.turned[0] for d in changes(plain).values()}) == 2, "some are, and some are not"


def test_errors_are_those_of_weights_and_inputs():
    """Of one layer, from its own inputs, gathered here."""
    run, fresh = made(input_bits=3, weight_bits=2), Adapted(tiny.llama())
    name = "model.layers.0.mlp.down_proj"
    module, seen = fresh.model.get_submodule(name), []
    module.register_forward_hook(lambda m, given, y: seen.append(given[0].flatten(0, -2)))
    fresh.model.eval()
    with torch.no_grad():
        for row in ROWS:
            fresh.model(torch.tensor([row.input_ids]))
    x, W = torch.cat(seen), module.weight.detach()
    for place, (v, w) in enumerate(((x, W), (rotated(x), rotated(W)))):
        wanted = (rounded(v, 3) - v).square().mean() + (rounded(w, 2) - w).square().mean()
        assert run.state("roste").data["layers"][name]["errors"][place] == pytest.approx(float(wanted), rel=1e-3)


def test_with_an_outlier_channel_rotated_layers_are_nearer_to_the_base():
    base = logits(outlier(tiny.llama()))
    far = {}
    for rotations in ("never", "always", "adaptive"):
        run = made(model=outlier(tiny.llama()), rotations=rotations, weight_bits=8, cache_bits=0)
        far[rotations] = float((logits(run.adapted.model) - base).norm())
    assert far["adaptive"] < 0.6 * far["never"] and far["adaptive"] < 1.3 * far["always"]


def test_all_weights_train_and_the_loss_in_few_bits_falls():
    run = made()
    loop = run.train()
    assert set(loop.trained.leaves) == set(run.adapted.base_parameters())
    assert run.records[-1]["loss"] < run.records[0]["loss"]
    fixed = {n: d.settings() for n, d in changes(run).items()}
    assert fixed == {n: d.settings() for n, d in changes(made()).items()}, "what is rotated does not change"
    with run.adapted.base() as model:
        assert torch.equal(logits(model), logits(tiny.llama()))


def test_beside_lora_only_its_deltas_train():
    run = made(beside={"lora": LoRA(rank=2)})
    loop = run.train()
    assert all(".delta.lora.lora_" in n for n in loop.trained.leaves)
    assert run.records[-1]["loss"] < run.records[0]["loss"]


def test_it_resumes_and_is_carried(tmp_path):
    assert_resumes(lambda listen: made(listen), 3)
    run = made()
    run.train()
    carry.save_stage(tmp_path / "stages" / "first", run.adapted, {})
    again = Adapted(tiny.llama())
    carry.begin(again, "stages.first", "training", tmp_path, "recipe.yaml")
    assert agrees(logits(again.model), logits(run.adapted.model))


def test_halfway_it_is_between():
    run = made()
    change, site = next(iter(changes(run).values())), run.adapted.structure.linear_sites()[0]
    x = normal(3, site.in_features)
    with torch.no_grad():
        whole, own = site.module(x), x @ site.matrix().t()
        change.strength = 0.5
        torch.testing.assert_close(site.module(x), (whole + own) / 2, atol=1e-5, rtol=1e-4)


def test_the_report_counts_bits_and_rotations():
    run = made(weight_bits=3)
    method, state = next((b.method, b.state) for b in run.methods)
    found = method.found(state)
    sites = Adapted(tiny.llama()).structure.linear_sites()
    bits = sum(3 * s.in_features * s.out_features + 32 * s.out_features for s in sites)
    assert found.values["bits a weight"] == bits / sum(s.in_features * s.out_features for s in sites)
    assert found.values["rotated"] == sum(d.turned[0] for d in changes(run).values()) / len(sites)
    assert len(found.rows) == len(sites)


def test_errors():
    with pytest.raises(MethodError, match="q_prj"):
        made(target_modules=["q_prj"])
    from tunewright.models.nf4 import quantise_sites

    adapted = Adapted(tiny.llama())
    quantise_sites(adapted.model, adapted.structure.linear_sites(), True)
    adapted.rediscover()
    with pytest.raises(MethodError, match="4 bits"):
        made(model=adapted)
