"""LQ-LoRA: turns against an SVD of each, budgets of bits kept exactly, weighted errors, what training leaves alone.

Against the authors' code (HanGuo97/lq-lora at c2424b3, exact SVDs, `tensor_quant` written out) on a 48 x 64 normal
matrix: four formats of 2 to 8 bits differ by 6e-7 at most; at rank 24 and 3 bits the errors are theirs to 4e-6 after 1,
2 and 5 turns, 3.6572, 2.1047 and 1.8791 (weighted by F in [0, 1]: 3.6464, 2.1167, 1.8237), and where the sixth rises
they keep it, 1.8889 (1.8370), and we the fifth. The program chooses for 20 matrices of 12 candidates what `mip_solve`
with scipy does.
"""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits, text_rows
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.adapters.lq_lora import LQLoRA, Weights, allocate, approximation, error, split
from tunewright.models import delta_format
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees, same_bits
from tunewright.models.normal_float import Format, dequantise, quantise
from tunewright.models.quantised_low_rank import QuantisedLowRank
from tunewright.training import carry

ROWS = text_rows(8)
FEW = {"rank": 2, "alpha": 4, "average_bits": 3.5, "block_sizes": (16, 32), "iterations": 3}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(listen=None, model=None, **fields) -> Run:
    method = LQLoRA(**{**FEW, **fields})
    return Run({"lq-lora": method}, model=model, listen=listen, steps=6, sources={"new": ROWS})


def changes(run: Run) -> dict[str, QuantisedLowRank]:
    return {site: d["lq-lora"] for site, d in run.adapted.deltas().items()}


def test_each_turn_is_the_best_product_of_what_is_left_and_then_the_nearest_codes():
    W, form, rank = normal(24, 40), Format(3, 8, 16), 12  # half of its rank: an exact SVD
    Q, errors = torch.zeros_like(W), []
    for _ in range(4):
        U, S, Vt = torch.linalg.svd((W - Q).double(), full_matrices=False)
        low = ((U[:, :rank] * S[:rank]) @ Vt[:rank]).float()
        Q = dequantise(quantise(W - low, form), form, (24, 40))
        errors.append(float((W - Q - low).norm()))
    got = split(W, rank, form, 4)
    assert got.errors == pytest.approx(errors, rel=1e-3)
    assert got.errors[-1] < 0.95 * got.errors[0], "turns bring it nearer"
    plain = quantise(W, form)
    assert got.errors[0] < float((W - dequantise(plain, form, (24, 40))).norm())
    torch.testing.assert_close(got.left.norm(dim=0), got.right.norm(dim=1), rtol=1e-4, atol=1e-6)


def test_it_ends_when_the_error_rises_and_keeps_the_turn_before():
    stopped = 0
    for seed in range(6):
        W, form = normal(12, 20, seed=seed), Format(2, 8, 20)
        got = split(W, 2, form, 100)
        best = min(got.errors)
        rose = len(got.errors) < 100
        stopped += rose
        assert not rose or got.errors[-1] > got.errors[-2] == best
        left = W - got.left @ got.right - dequantise(got.held, form, (12, 20))
        assert float(left.norm()) == pytest.approx(best, rel=1e-5)
    assert stopped, "some of them end so"


def test_weighted_the_product_is_the_best_of_the_weighted_error_and_constants_change_nothing():
    R = normal(10, 14)
    by = Weights(normal(10, 1, seed=1).abs() + 0.1, normal(1, 14, seed=2).abs() + 0.1)
    L1, L2 = approximation(R, 3, by)
    least = torch.linalg.svdvals(by.rows * R * by.columns)[3:].norm()
    assert error(R - L1 @ L2, by) == pytest.approx(float(least), rel=1e-4)
    assert error(R - torch.mm(*approximation(R, 3)), by) > 1.02 * float(least)
    same = approximation(R, 3, Weights(torch.full((10, 1), 0.3), torch.full((1, 14), 2.0)))
    torch.testing.assert_close(torch.mm(*same), torch.mm(*approximation(R, 3)), atol=1e-5, rtol=1e-4)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.integers(1, 4), st.integers(2, 4), st.floats(0, 1), st.integers(0, 99))
def test_bits_are_divided_as_trying_all_choices_does(matrices, candidates, place, seed):
    rng = random.Random(seed)
    bits = [[rng.randint(1, 9) for _ in range(candidates)] for _ in range(matrices)]
    errors = [[rng.random() / b for b in of] for of in bits]
    fewest, most = sum(map(min, bits)), sum(map(max, bits))
    budget = fewest + place * (most - fewest)
    chosen = allocate(errors, bits, budget)
    assert sum(bits[i][k] for i, k in enumerate(chosen)) <= budget
    every = [
        sum(errors[i][k] for i, k in enumerate(of))
        for of in itertools.product(range(candidates), repeat=matrices)
        if sum(bits[i][k] for i, k in enumerate(of)) <= budget
    ]
    assert sum(errors[i][k] for i, k in enumerate(chosen)) <= min(every) * (1 + 2e-4) + 1e-12
    with pytest.raises(MethodError, match="no choice"):
        allocate(errors, bits, fewest - 0.5)


@pytest.mark.parametrize("maker", [tiny.llama, tiny.gpt2])
def test_bits_are_within_the_budget_and_only_the_product_trains(maker):
    run = made(model=maker(), average_bits=4.2)
    base = maker()
    own = changes(run)
    assert set(own) == {s.name for s in Adapted(base).structure.linear_sites()}
    held = sum(t.nbytes * 8 for d in own.values() for t in d.buffers())
    weights = sum(d.lora_A.shape[1] * d.lora_B.shape[0] for d in own.values())
    assert 0.9 * 4.2 * weights < held <= 4.2 * weights
    assert len({d.bits for d in own.values()}) > 1, "matrices differ"
    codes = {n: d.codes.clone() for n, d in own.items()}
    loop = run.train()
    assert all(n.endswith(("lora_A", "lora_B")) for n in loop.trained.leaves)
    assert all(torch.equal(d.codes, codes[n]) for n, d in own.items())
    assert run.records[-1]["loss"] < run.records[0]["loss"]


def test_it_starts_nearer_to_the_base_than_the_same_bits_beside_a_product_of_zero():
    base, far = logits(tiny.llama()), {}
    for turns in (0, 1, 30):
        run = made(iterations=turns, rank=8, bits=(3,), block_sizes=(32,), average_bits=5.0)
        weights = {n: Adapted(tiny.llama()).structure.site(n).matrix() for n in changes(run)}
        far[turns] = sum(
            float((d.matrix().detach() - weights[n].detach()).square().sum()) for n, d in changes(run).items()
        )
        if not turns:
            assert not any(d.lora_B.any() for d in changes(run).values())
            for n, d in changes(run).items():
                assert torch.equal(dequantise(quantise(weights[n], d.bits), d.bits, weights[n].shape), d.quantised())
    assert far[30] < far[1] < 0.8 * far[0]
    assert not agrees(logits(run.adapted.model), base)


def test_what_the_loss_says_of_rows_and_columns_weights_the_error():
    """Against the diagonal Fisher information itself, of each weight."""
    from tunewright.methods.needs.fisher import diagonal_fisher, mean_loss

    runs = {data: made(data=data, samples=8, rank=4, bits=(2,), average_bits=4.0) for data in (None, "train")}
    context = runs["train"].provider.context
    fresh = Adapted(tiny.llama())
    context.adapted = fresh
    sites = fresh.structure.linear_sites()
    F = diagonal_fisher(sites, lambda b: mean_loss(context, b), context.batches("train", 8, tokens=1))
    far = {
        data: sum(
            float((F[s.name] * (s.matrix() - changes(run)[s.name].matrix()).square()).sum().detach()) for s in sites
        )
        for data, run in runs.items()
    }
    assert far["train"] < 0.97 * far[None]
    needs = next(b.stage_needs for b in runs["train"].methods)["fisher_sides"]
    for s in sites:
        torch.testing.assert_close(needs[f"rows.{s.name}"], F[s.name].mean(1), rtol=1e-3, atol=1e-12)
        torch.testing.assert_close(needs[f"columns.{s.name}"], F[s.name].mean(0), rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("maker", [tiny.llama, tiny.gpt2])
def test_folded_dialled_and_back(maker):
    run = made(model=maker())
    run.train()
    adapted, before = run.adapted, logits(maker())
    tuned = logits(adapted.model)
    with adapted.base() as model:
        assert torch.equal(logits(model), before)
    site, change = adapted.structure.linear_sites()[0], next(iter(changes(run).values()))
    x = normal(3, site.in_features)
    with torch.no_grad():
        at = {}
        for change.strength in (1.0, 0.5, 0.0):  # in the place of the layer's own product, beside it, away
            at[change.strength] = site.module(x)
        change.strength = 1.0
    torch.testing.assert_close(at[0.5], (at[0.0] + at[1.0]) / 2, atol=1e-5, rtol=1e-4)
    base, whole, half = (adapted.tuned_state(x) for x in (0.0, 1.0, 0.5))
    assert all(same_bits(base[n], t) for n, t in maker().state_dict().items())
    assert all(torch.allclose(half[n], (base[n] + whole[n]) / 2, atol=1e-6) for n in base)
    plain = maker()
    plain.load_state_dict(whole)
    torch.testing.assert_close(logits(plain), tuned, atol=1e-5, rtol=1e-4)
    assert adapted.fold() == len(adapted.structure.linear_sites())
    torch.testing.assert_close(logits(adapted.model), tuned, atol=1e-5, rtol=1e-4)
    adapted.forget_changes()
    assert torch.equal(logits(adapted.model), before)


def test_beside_another_change_both_count():
    run = made()
    site = run.adapted.structure.linear_sites()[0]
    from tunewright.models.deltas import LowRank, attach

    attach(site, "more", LowRank(normal(2, site.in_features), normal(site.out_features, 2, seed=1), 0.3))
    said = logits(run.adapted.model)
    with run.adapted.at_strength(1.0) as model:
        torch.testing.assert_close(logits(model), said, atol=1e-4, rtol=1e-4)


def test_gradients_are_those_of_the_matrices_written_out():
    run = made(dropout=0.0)
    change = next(iter(changes(run).values()))
    layer = next(s for s in run.adapted.structure.linear_sites() if hasattr(s.module, "delta")).module
    x = normal(3, 5, layer.weight.shape[1]).requires_grad_()
    (layer(x).square().sum()).backward()
    got = x.grad.clone(), change.lora_A.grad.clone(), change.lora_B.grad.clone()
    A, B, other = (t.detach().clone().requires_grad_() for t in (change.lora_A, change.lora_B, x))
    (other @ (change.quantised() + change.scale * B @ A).t()).square().sum().backward()
    for mine, theirs in zip(got, (other.grad, A.grad, B.grad), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_the_bases_weights_are_on_disk_while_it_trains_and_keep_their_values():
    run = made()
    fresh = tiny.llama()
    for site in run.adapted.structure.linear_sites():
        assert site.weight.untyped_storage().is_shared(), "a file's"
        assert not fresh.get_submodule(site.name).weight.untyped_storage().is_shared()
        assert same_bits(site.weight, fresh.get_submodule(site.name).weight)
    before = logits(run.adapted.model)
    for site in run.adapted.structure.linear_sites():
        site.weight.data.zero_()
    assert torch.equal(logits(run.adapted.model), before), "they are not read"


def test_it_resumes_bit_for_bit():
    assert_resumes(lambda listen: made(listen, data="train", samples=4, dropout=0.2), 3)


def test_it_is_carried_saved_and_applied(tmp_path):
    run = made()
    run.train()
    tuned = logits(run.adapted.model)
    carry.save_stage(tmp_path / "stages" / "first", run.adapted, {})
    for way in ("frozen", "training", "fold"):
        again = Adapted(tiny.llama())
        carry.begin(again, "stages.first", way, tmp_path, "recipe.yaml")
        torch.testing.assert_close(logits(again.model), tuned, atol=1e-5, rtol=1e-4)
    later = Run({"lora": LoRA(rank=2)}, model=again, steps=2)
    later.train()
    delta_format.save_delta(run.adapted, tmp_path, "tiny")
    plain = Adapted(tiny.llama())
    delta_format.load_delta(plain, tmp_path)
    torch.testing.assert_close(logits(plain.model), tuned, atol=1e-5, rtol=1e-4)


def test_the_report_says_what_is_held():
    run = made(average_bits=4.0)
    method, state = next((b.method, b.state) for b in run.methods)
    found = method.found(state)
    own = changes(run)
    weights = {n: Adapted(tiny.llama()).structure.site(n).matrix() for n in own}
    held = sum(t.nbytes * 8 for d in own.values() for t in d.buffers())
    numbers = sum(W.numel() for W in weights.values())
    assert found.values["bits a weight"] == held / numbers <= 4.0
    low = sum(p.numel() * 32 for d in own.values() for p in d.parameters())
    assert found.values["bits a weight with the low-rank parts"] == (held + low) / numbers
    far = sum(float((own[n].matrix() - W).detach().square().sum()) for n, W in weights.items())
    size = sum(float(W.square().sum()) for W in weights.values())
    assert found.values["error at first"] == pytest.approx((far / size) ** 0.5, rel=1e-4)
    assert len(found.rows) == len(own)


def test_errors():
    with pytest.raises(
        ValueError, match=r"average_bits is 1\.5, and the candidates take 2\.\d+ bits a weight at least"
    ):
        LQLoRA(average_bits=1.5)
    with pytest.raises(MethodError, match=r"take 2\.\d+ bits a weight at least, and average_bits is 2\.2"):
        made(average_bits=2.2, group_sizes=(16,), scale_bits=(4,))  # enough for large layers, not for these
    with pytest.raises(MethodError, match="rank 99 exceeds"):
        made(rank=99)
    with pytest.raises(MethodError, match="q_prj"):
        made(target_modules=["q_prj"])
    from tunewright.models.nf4 import quantise_sites

    adapted = Adapted(tiny.llama())
    quantise_sites(adapted.model, adapted.structure.linear_sites(), True)
    adapted.rediscover()
    with pytest.raises(MethodError, match="4 bits"):
        made(model=adapted)
    from tunewright.catalogue import load_method
    from tunewright.contract.combining import check_conflicts

    with pytest.raises(MethodError, match="'full' needs the base's weights, and 'lq-lora' holds them"):
        check_conflicts([("lq-lora", LQLoRA()), ("full", load_method("full")())], stage="main")
    check_conflicts([("lq-lora", LQLoRA())], stage="main")
