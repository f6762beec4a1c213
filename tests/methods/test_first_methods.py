"""The defining property of each of the first methods, on bare tensors or through the real loop."""

from __future__ import annotations

import math
import random

import pytest
import torch

from tests import tiny
from tunewright.conformance.bench import Tiny, token_rows
from tunewright.contract.method import Candidates, Plan
from tunewright.errors import MethodError
from tunewright.methods.adapters.corda import CorDA, damped, decompose
from tunewright.methods.adapters.lora import LoRA, scale_of
from tunewright.methods.needs.fisher import diagonal_fisher
from tunewright.methods.needs.input_covariance import covariances
from tunewright.methods.objectives.asft import ASFT, asft_loss, divergence, weighted_by_own_probability
from tunewright.methods.optimization.infinite_lr import InfiniteLR, infinite_factor
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.methods.parameter_selection.hft import HalfFineTuning, draw_half
from tunewright.methods.parameter_selection.lift import LIFT, budget, largest_entries, low_rank_part
from tunewright.methods.regularization.e2wm import ElasticLoRA, elastic_penalty
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import same_bits
from tunewright.tasks import get_task


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# -- full, lora ------------------------------------------------------------------------------------------------------


def test_full_trains_every_parameter_once():
    t = Tiny([("full", FullFineTuning())])
    assert set(t.loop.trained.leaves) == {n for n, _ in t.adapted.model.named_parameters()}


def test_lora_scales_and_patterns():
    assert scale_of(16, 32) == 2 and scale_of(16, 32, rank_stabilised=True) == 8
    method = LoRA(rank=4, alpha=8, rank_pattern={"q_proj": 2, "layers.1.mlp.up_proj": 3}, alpha_pattern={"k_proj": 1})
    deltas = {s: d["lora"] for s, d in Tiny([("lora", method)]).adapted.deltas().items()}
    assert len(deltas) == 14
    assert (deltas["model.layers.0.self_attn.q_proj"].rank, deltas["model.layers.0.self_attn.q_proj"].scale) == (2, 4)
    assert (deltas["model.layers.0.self_attn.k_proj"].rank, deltas["model.layers.0.self_attn.k_proj"].scale) == (
        4,
        0.25,
    )
    assert [deltas[f"model.layers.{i}.mlp.up_proj"].rank for i in (0, 1)] == [4, 3]


@pytest.mark.parametrize(
    "parameters, near", [({"target_modules": ["q_prj"]}, "q_proj"), ({"rank_pattern": {"qproj": 2}}, "q_proj")]
)
def test_lora_names_the_nearest_module(parameters, near):
    with pytest.raises(MethodError, match=near):
        Tiny([("lora", LoRA(**parameters))])


# -- hft -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_hft_trains_two_attention_matrices_a_block_and_half_of_the_mlp(seed):
    adapted = Adapted(tiny.llama(layers=4))
    chosen = set(HalfFineTuning().choose(Candidates(adapted), random.Random(seed)).names)
    kinds = Candidates(adapted).by_kind("attention", "mlp", "norm")
    assert [len(chosen & set(b)) for b in kinds["attention"]] == [2] * 4
    assert [len(chosen & set(b)) for b in kinds["norm"]] == [1] * 4
    mlp = sorted(len(chosen & set(b)) for b in kinds["mlp"])
    assert mlp == [1, 1, 2, 2], "3L/2 for even L"
    assert set(Candidates(adapted).outside_blocks) <= chosen


def test_draw_half_is_sorted_follows_the_generator_and_reaches_every_matrix():
    kinds = {"attention": [[f"{b}.{m}" for m in "qkvo"] for b in range(3)]}
    draws = [draw_half(kinds, random.Random(i)) for i in range(30)]
    assert draws[0] == draw_half(kinds, random.Random(0)) == tuple(sorted(draws[0]))
    assert {n for d in draws for n in d} == {n for b in kinds["attention"] for n in b}


def test_hft_leaves_frozen_matrices_bit_equal_and_redraws():
    t = Tiny([("hft", HalfFineTuning(round_steps=2))], steps=4)
    drawn: list[set[str]] = []
    before: dict[str, torch.Tensor] = {}

    def watch(loop, record):
        drawn.append(set(loop.trained.leaves))
        for n, p in t.adapted.base_parameters().items():
            if n not in drawn[-1] and n in before:
                assert same_bits(p.detach(), before[n]), f"{n} was frozen and moved"
        before.update({n: p.detach().clone() for n, p in t.adapted.base_parameters().items()})

    before.update({n: p.detach().clone() for n, p in t.adapted.base_parameters().items()})
    t.loop.stage.listen = watch
    t.run()
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3]


def test_hft_trains_a_bias_with_its_matrix():
    adapted = Adapted(tiny.gpt2())
    chosen = set(HalfFineTuning().choose(Candidates(adapted), random.Random(0)).names)
    for block in adapted.structure.blocks:
        for site in block.sites:
            bias = f"{site.name}.bias"
            assert bias not in block.parameter_names or (bias in chosen) == (site.weight_name in chosen)


# -- lift ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12, 20), (20, 12)])
def test_lift_reduces_as_the_svd_does_and_takes_the_largest(shape):
    W = normal(*shape)
    U, S, V = torch.linalg.svd(W.double(), full_matrices=False)
    R = (U[:, :3] * S[:3]) @ V[:3]
    assert torch.allclose(low_rank_part(W, 3).double(), R, atol=1e-5) and torch.allclose(
        low_rank_part(W, 12), W, atol=1e-6
    )
    places = largest_entries(R, 30)
    assert len(places) == 30 and bool((places.diff() > 0).all())
    rest = torch.ones(R.numel(), dtype=torch.bool)
    rest[places] = False
    assert R.abs().flatten()[places].min() >= R.abs().flatten()[rest].max()
    assert budget(4096, 4096, 128) / 4096**2 == 0.0625 and budget(4, 5, 100) == 20


def test_lift_moves_only_the_mask_and_keeps_moments_of_what_stays():
    t = Tiny([("lift", LIFT(rank=2, filter_rank=4, refresh_steps=2))], steps=4)
    states, masks, values = [], [], [{n: p.detach().clone() for n, p in t.adapted.base_parameters().items()}]

    def watch(loop, record):
        states.append({k: v.clone() for k, v in loop.optimizers.state().items()})
        masks.append({n: leaf.indices.clone() for n, leaf in loop.trained.leaves.items()})
        values.append({n: p.detach().clone() for n, p in t.adapted.base_parameters().items()})

    t.loop.stage.listen = watch
    t.run()
    for step, mask in enumerate(masks):
        for n, now in values[step + 1].items():
            moved = (now != values[step][n]).flatten().nonzero()[:, 0]
            assert n in mask or not len(moved)
            assert not len(moved) or bool(torch.isin(moved, mask[n]).all())
        assert all(len(i) == budget(*t.adapted.base_parameters()[n].shape, 2) for n, i in mask.items())
        assert all(states[step][f"{n}|exp_avg"].shape == i.shape for n, i in mask.items()), (
            "moments exist for the mask alone"
        )
    assert any(not torch.equal(masks[1][n], masks[2][n]) for n in masks[0]), "the mask is drawn again"
    assert float(states[3][f"{next(iter(masks[0]))}|step"]) == 4, "the step count goes on"


def test_lift_redraw_keeps_moments_bit_for_bit():
    t = Tiny([("lift", LIFT(rank=2, filter_rank=4, refresh_steps=None))], steps=2).run()
    old, leaves = t.loop.optimizers.state(), dict(t.loop.trained.leaves)
    t.loop.optimizers.redraw(t.loop._draw())
    new, stayed = t.loop.optimizers.state(), 0
    for n, leaf in t.loop.trained.leaves.items():
        before = dict(zip(leaves[n].indices.tolist(), old[f"{n}|exp_avg_sq"].tolist(), strict=True))
        after = dict(zip(leaf.indices.tolist(), new[f"{n}|exp_avg_sq"].tolist(), strict=True))
        assert all(v == before.get(place, 0.0) for place, v in after.items())
        stayed += len(before.keys() & after.keys())
    assert stayed > 0


# -- corda -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["preview", "keep"])
def test_corda_identities(mode):
    W, X, scale, r = normal(10, 8), normal(200, 8, seed=1), 0.5, 3
    C, inverse = damped(X.t() @ X)
    A, B = decompose(W, C, inverse, r, scale, mode)
    S = torch.linalg.svdvals(W @ C)
    part = S[:r] if mode == "preview" else S[-r:]
    assert torch.allclose(scale * A @ C @ C @ A.t(), torch.diag(part), rtol=1e-3, atol=1e-3 * float(part.max()))
    residual = torch.linalg.norm((W - scale * B @ A) @ C)
    rest = S[r:] if mode == "preview" else S[:-r]
    assert torch.allclose(residual, rest.square().sum().sqrt(), rtol=1e-4)


def test_corda_damping_makes_a_singular_covariance_invertible():
    X = normal(3, 8)
    C, inverse = damped(X.t() @ X)
    assert torch.linalg.norm(C @ inverse - torch.eye(8)) < 0.05


def test_corda_leaves_the_base_alone_and_starts_as_it():
    t = Tiny([("corda", CorDA(rank=4, mode="preview"))])
    for by_name in t.adapted.deltas().values():
        d = by_name["corda"]
        assert float(d.lora_B.detach().norm()) > 0 and float(d.change().detach().abs().max()) < 1e-6
    assert all(same_bits(p.detach(), t.base[n]) for n, p in t.adapted.base_parameters().items())
    with pytest.raises(MethodError, match="exceeds"):
        Tiny([("corda", CorDA(rank=64))])
    with pytest.raises(MethodError, match="rows of 'elsewhere'"):
        Tiny([("corda", CorDA(rank=4, data="elsewhere"))])


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_covariance_leaves_padding_out_and_adds_up_over_batches(make):
    model, task = make(), get_task("text-generation")
    sites, rows = Adapted(model).structure.linear_sites(), token_rows("x", 5)
    together = covariances(sites, lambda b: task.forward(model, b), [task.collate(rows)])
    alone = covariances(sites, lambda b: task.forward(model, b), [task.collate([r]) for r in rows])
    assert set(together) == {s.name for s in sites}
    for s in sites:
        assert together[s.name].shape == (s.in_features, s.in_features)
        assert torch.allclose(together[s.name], alone[s.name], rtol=1e-3, atol=1e-4)
    if make is tiny.llama:
        names = [f"model.layers.0.self_attn.{m}_proj" for m in "qkv"]
        assert len({together[n].data_ptr() for n in names}) == 1, "what reads the same input shares one covariance"


# -- asft ------------------------------------------------------------------------------------------------------------


def test_asft_gradient_is_exact():
    V, anchor = 7, 0.3
    logits, base, labels = (
        normal(5, V, dtype=torch.float64).requires_grad_(),
        normal(5, V, seed=1, dtype=torch.float64),
        torch.tensor([0, 3, 6, 2, 2]),
    )
    # the method computes in fp32; here its pieces run in fp64
    log_p = logits.log_softmax(-1)
    own = weighted_by_own_probability(log_p.gather(-1, labels[:, None])[:, 0])
    kl = (base.softmax(-1) * (base.log_softmax(-1) - log_p)).sum(-1)
    (grad,) = torch.autograd.grad((own + anchor * kl).sum(), logits)
    p, q = logits.detach().softmax(-1), base.softmax(-1)
    p_y = p.gather(-1, labels[:, None])
    wanted = p_y * (p - torch.nn.functional.one_hot(labels, V)) + anchor * (p - q)
    assert torch.allclose(grad, wanted, atol=1e-12)
    (whole,) = torch.autograd.grad(asft_loss(logits, base, labels, anchor).sum(), logits)
    assert torch.allclose(whole, wanted, atol=1e-6), "and the whole, in fp32, gives the same"


def test_asft_divergence_is_zero_at_the_base_and_absent_without_an_anchor():
    logits = normal(4, 9)
    assert float(divergence(logits, logits).abs().max()) == 0 and bool(
        (divergence(logits, normal(4, 9, seed=1)) > 0).all()
    )
    assert ASFT(anchor=0).needs() == () and len(ASFT().needs()) == 1
    dft, asft = Tiny([("asft", ASFT(anchor=0))], steps=1).run(), Tiny([("asft", ASFT(anchor=5))], steps=1).run()
    assert dft.records[0]["loss"] == pytest.approx(asft.records[0]["loss"], rel=1e-5), "at step 0 the divergence is 0"


# -- e2wm ------------------------------------------------------------------------------------------------------------


def test_elastic_penalty_is_zero_without_change_and_the_norm_under_equal_fisher():
    A, B = normal(2, 6).requires_grad_(), torch.zeros(5, 2, requires_grad=True)
    value = elastic_penalty({"w": 2.0 * B @ A}, {"w": torch.ones(5, 6)}, 0.7)
    grads = torch.autograd.grad(value, [A, B])
    assert value == 0 and all(float(g.abs().max()) == 0 for g in grads)
    D = 2.0 * normal(5, 2, seed=1) @ normal(2, 6)
    assert torch.allclose(elastic_penalty({"w": D}, {"w": torch.ones(5, 6)}, 0.7), 0.7 * D.square().sum())
    assert elastic_penalty({"w": D}, {"w": torch.zeros(5, 6)}, 0.7) == 0


def test_e2wm_holds_back_lora_and_full_weights():
    for beside in (("lora", LoRA(rank=2)), ("full", FullFineTuning())):
        sizes = []
        for coefficient in (0.0, 1e6):
            t = Tiny([beside, ("e2wm", ElasticLoRA(coefficient=coefficient))], steps=6).run()
            fisher = t.loop.methods.on("penalty")[0].stage_needs["fisher"]
            changes = {
                x.site.name: x.change().detach() for x in t.loop.trained_weights().values() if x.site.name in fisher
            }
            assert len(changes) == 14
            sizes.append(float(elastic_penalty(changes, fisher, 1.0)))
            assert t.records[0]["penalty/e2wm"] == 0
        assert sizes[1] < 0.5 * sizes[0], f"{beside[0]} is not held back: {sizes}"


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_fisher_has_no_cross_terms_between_rows(make):
    model, task, rows = make(), get_task("text-generation"), token_rows("x", 3)
    adapted = Adapted(model)
    sites = adapted.structure.linear_sites()[:3]

    def mean(batch):
        return task.loss(task.forward(model, batch), batch).value.mean()

    F = diagonal_fisher(sites, mean, [task.collate([r]) for r in rows])
    assert not any(p.requires_grad for p in model.parameters())
    site = sites[1]
    site.weight.requires_grad_(True)
    wanted = torch.stack([torch.autograd.grad(mean(task.collate([r])), site.weight)[0].square() for r in rows]).mean(0)
    assert F[site.name].shape == (site.out_features, site.in_features)
    assert torch.allclose(F[site.name], wanted.t() if site.kind == "conv1d" else wanted, rtol=1e-4, atol=1e-10)


def test_statistics_are_computed_once_for_equal_weights_and_rows(tmp_path, monkeypatch):
    method = [("e2wm", ElasticLoRA(samples=2))]
    first = Tiny(method, cache=tmp_path).run()
    (file,) = tmp_path.iterdir()
    monkeypatch.setattr("tunewright.methods.needs.fisher.diagonal_fisher", lambda *a: pytest.fail("computed again"))
    again = Tiny(method, cache=tmp_path).run()
    assert again.records == first.records and [file] == list(tmp_path.iterdir())
    monkeypatch.undo()
    Tiny([("e2wm", ElasticLoRA(samples=1))], cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


# -- infinite-lr -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["cosine", "inverse-sqrt"])
def test_infinite_schedule_is_continuous_and_ends_where_it_says(shape):
    def at(t):
        return infinite_factor(t, 1000, 2000, 0.5, shape=shape, anneal_from=5000, anneal=1000, final=0.05)

    values = [at(t) for t in range(7000)]
    assert max(abs(a - b) for a, b in zip(values, values[1:], strict=False)) < 0.005, "no jump at any join"
    assert values[1000] == 1 and values[3000] == values[5000] == 0.5
    assert values[6000] == pytest.approx(0.05) and values[6999] == pytest.approx(0.05)
    assert values[5500] == pytest.approx(math.sqrt(0.5 * 0.05)), "annealing is exponential"


def test_infinite_phases_in_steps_do_not_depend_on_the_stage_and_a_later_stage_goes_on_at_the_constant():
    def plan(steps):
        return Plan(steps, 0, "s", 0, 1.0, 0)

    method = InfiniteLR(warmup_steps=3, cooldown_steps=5)
    assert [method.schedule(i, plan(20)) for i in range(20)] == [method.schedule(i, plan(900)) for i in range(20)]
    later = InfiniteLR(warmup_steps=0, cooldown_steps=0, anneal_steps=4, final=0.1)
    factors = [later.schedule(i, plan(10)) for i in range(10)]
    assert factors[:6] == [0.5] * 6 and factors[-1] == pytest.approx(0.1) and factors[6] < 0.5
