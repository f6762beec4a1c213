"""SLTrain and DSEE: a low-rank product and values at fixed places, beside or in the place of the weight."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits
from tunewright.contract.method import Needs, State
from tunewright.errors import MethodError
from tunewright.methods.adapters.dsee import DSEE, left_by_low_rank, smallest
from tunewright.methods.adapters.sltrain import SLTrain
from tunewright.models import delta_format
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees, same_bits
from tunewright.models.peft_format import obstacle
from tunewright.models.sparse_low_rank import LowRankSparse, whole
from tunewright.pieces.low_rank import Start


def normal(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def delta(r: int = 2, n_in: int = 6, n_out: int = 5, k: int = 7, dtype=torch.float64) -> LowRankSparse:
    places = torch.randperm(n_in * n_out, generator=torch.Generator().manual_seed(1))[:k].sort().values
    A, B, v = normal(r, n_in, dtype=dtype), normal(n_out, r, seed=1, dtype=dtype), normal(k, seed=2, dtype=dtype)
    return LowRankSparse(A, B, 0.5, places, v, 1.5)


# -- the form ---------------------------------------------------------------------------------------------------------


def test_the_change_is_both_parts():
    d = delta()
    wanted = 0.5 * d.lora_B @ d.lora_A
    for place, value in zip(d.indices.tolist(), d.values.tolist(), strict=True):
        wanted[place // 6, place % 6] += 1.5 * value
    torch.testing.assert_close(d.change(), wanted)
    x, y = normal(3, 4, 6, seed=5), normal(3, 4, 5, seed=6)
    d.strength = 0.5
    torch.testing.assert_close(d(x, y), y + 0.5 * x @ wanted.t())


def test_gradients_are_those_of_plain_operations_to_the_second_order():
    d, x = delta(), normal(3, 6, seed=5).requires_grad_()
    y = normal(3, 5, seed=6)

    def forward(x, A, B, values):
        d.lora_A, d.lora_B, d.values = A, B, values
        return d(x, y)

    leaves = tuple(p.detach().clone().requires_grad_() for p in (d.lora_A, d.lora_B, d.values))
    for name in ("lora_A", "lora_B", "values"):
        del d._parameters[name]
    assert torch.autograd.gradcheck(forward, (x, *leaves))
    assert torch.autograd.gradgradcheck(forward, (x, *leaves))


def test_between_forward_and_backward_nothing_of_the_weights_size_is_kept():
    """What autograd saves: x, A, B, values and places."""
    n_in, n_out, k, tokens = 64, 80, 40, 3
    d = delta(2, n_in, n_out, k, torch.float32)
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.numel()), t)[1], lambda t: t):
        out = d(normal(tokens, n_in, dtype=torch.float32), torch.zeros(tokens, n_out))
        out.square().sum().backward()
    assert max(saved) < n_in * n_out / 8
    assert d.indices.dtype == torch.int32


def test_it_goes_to_a_file_and_back(tmp_path):
    run = Run({"sltrain": SLTrain(rank=2, alpha=2.0)}, steps=2)
    run.train()
    assert "low-rank-sparse" in obstacle(run.adapted)
    delta_format.save_delta(run.adapted, tmp_path, "tiny")
    again = Adapted(tiny.llama())
    delta_format.load_delta(again, tmp_path)
    assert same_bits(logits(again.model), logits(run.adapted.model))
    run.adapted.fold()
    assert torch.allclose(logits(run.adapted.model), logits(again.model), atol=1e-5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(MethodError, match="7 places have 6 values"):
        LowRankSparse(normal(2, 6), normal(5, 2), 1.0, torch.arange(7), normal(6))


# -- sltrain ----------------------------------------------------------------------------------------------------------


def test_beside_a_base_it_starts_as_the_base_and_trains_its_parts_alone():
    run = Run({"sltrain": SLTrain(rank=2, alpha=4.0, sp_ratio=0.1)}, steps=4, learning_rate=1e-2)
    assert agrees(logits(run.adapted.model), logits(tiny.llama()))
    for s, by_name in run.adapted.deltas().items():
        d, site = by_name["sltrain"], run.adapted.structure.site(s)
        assert d.values.numel() == int(0.1 * site.out_features * site.in_features) and d.scale == 2
        assert not d.values.any() and bool((d.indices.diff() > 0).all())
    places = {s: d["sltrain"].indices.clone() for s, d in run.adapted.deltas().items()}
    loop = run.train()
    assert all(".delta.sltrain." in n for n in loop.trained.leaves)
    assert run.records[-1]["loss"] < run.records[0]["loss"]
    assert all(torch.equal(d["sltrain"].indices, places[s]) for s, d in run.adapted.deltas().items())


def test_in_the_place_of_the_weight_nothing_of_it_is_left_and_the_rest_trains():
    run = Run({"sltrain": SLTrain(rank=2, alpha=2.0, sp_ratio=0.1, replace=True)}, steps=5)
    base = {n: p.detach().clone() for n, p in run.adapted.base_parameters().items()}
    state = run.state("sltrain")
    next(iter(run.methods)).method.begin_task(run.adapted, state)
    targeted = {run.adapted.structure.site(s).weight_name for s in state.data["sites"]}
    loop = run.train()
    assert len(targeted) == 14 and all(not run.adapted.base_parameters()[n].any() for n in targeted)
    assert set(loop.trained.leaves) >= set(base) - targeted and not targeted & set(loop.trained.leaves)
    assert run.records[-1]["loss"] < run.records[0]["loss"]
    for s, by_name in run.adapted.deltas().items():
        d = by_name["sltrain"]
        rest = d.change() - whole(d.lora_A, 0 * d.lora_B, d.values, d.indices, (1.0, 1.0))
        assert int(torch.linalg.matrix_rank(rest.detach(), atol=1e-5)) <= 2, s
    run.adapted.forget_changes()
    assert all(same_bits(p.detach(), base[n]) for n, p in run.adapted.base_parameters().items())


def test_trained_numbers_are_those_of_the_paper():
    """r (in + out) + sp_ratio in out a layer, and gradients and two moments of no more."""
    run = Run({"sltrain": SLTrain(rank=4, sp_ratio=0.05)}, steps=1)
    sites = run.adapted.structure.linear_sites()
    wanted = sum(4 * (s.in_features + s.out_features) + int(0.05 * s.in_features * s.out_features) for s in sites)
    loop = run.train()
    assert sum(p.numel() for p in loop.trained.parameters().values()) == wanted
    state = loop.optimizers.state()
    assert sum(t.numel() for n, t in state.items() if "exp_avg" in n) == 2 * wanted


@pytest.mark.parametrize("replace", [False, True])
def test_sltrain_resumes(replace):
    def make(listen):
        run = Run({"sltrain": SLTrain(rank=2, alpha=2.0, replace=replace)}, steps=4, listen=listen)
        next(iter(run.methods)).method.begin_task(run.adapted, run.state("sltrain"))
        return run

    assert_resumes(make, 2)


# -- dsee -------------------------------------------------------------------------------------------------------------


def test_what_a_low_rank_matrix_leaves_is_found_as_the_authors_do():
    """Their loop in numpy, in double precision, stopped at half of the rank: the same remainder to rounding."""
    W, V = normal(20, 26, dtype=torch.float32) * 0.05, normal(1, 26, seed=7, dtype=torch.float32)
    w, v = W.double().numpy(), V.double().numpy()
    while True:
        S = np.zeros_like(w)
        for _ in range(2):
            u = np.linalg.qr((w - S) @ v.T)[0]
            v = u.T @ (w - S)
            S = w - u @ v
            S[np.abs(S) < 0.01] = 0
        if len(v) == 10:
            break
        v = np.concatenate([v, np.linalg.qr(w - u @ v - S)[1][: min(5, 10 - len(v))]])
    left = left_by_low_rank(W, V).double().numpy()
    np.testing.assert_allclose(np.where(np.abs(left) < 0.01, 0, left), S, atol=2e-3)


def dsee(listen=None, **fields) -> Run:
    run = Run({"dsee": DSEE(**{"rank": 2, "alpha": 4.0, "num_sparse": 16, **fields})}, steps=4, listen=listen)
    next(iter(run.methods)).method.begin_task(run.adapted)
    return run


def test_the_base_is_sparse_by_size_over_all_layers_and_stays_so():
    run, plain = dsee(prune=0.3), Adapted(tiny.llama())
    names = [s.weight_name for s in run.adapted.structure.linear_sites()]
    before = {n: plain.base_parameters()[n].detach() for n in names}
    cut = torch.cat([w.abs().flatten() for w in before.values()]).sort().values
    cut = cut[int(0.3 * len(cut)) - 1]
    run.train()
    for n in names:
        now = run.adapted.base_parameters()[n].detach()
        assert same_bits(now, torch.where(before[n].abs() <= cut, 0.0, before[n]))
    zero = sum(int((run.adapted.base_parameters()[n] == 0).sum()) for n in names)
    assert zero / sum(w.numel() for w in before.values()) == pytest.approx(0.3, abs=1e-3)
    shares = {float((run.adapted.base_parameters()[n] == 0).float().mean()) for n in names}
    assert len(shares) > 1, "one pool of all layers"
    run.adapted.forget_changes()
    assert all(same_bits(run.adapted.base_parameters()[n].detach(), before[n]) for n in names)


def test_dsee_trains_values_where_it_said_and_nothing_else():
    run = dsee(prune=0.0)
    assert agrees(logits(run.adapted.model), logits(tiny.llama()))
    d = next(iter(run.adapted.deltas().values()))["dsee"]
    assert d.values.numel() == 16 and d.value_scale == d.scale == 2
    loop = run.train()
    assert all(".delta.dsee." in n for n in loop.trained.leaves) and bool(d.values.any())
    assert run.records[-1]["loss"] < run.records[0]["loss"]
    site = run.adapted.structure.site("model.layers.0.self_attn.q_proj")
    places = DSEE(num_sparse=16).places(Start(site, 2, 2.0, Needs({}), State(), random.Random(5)))
    rng = random.Random(5)
    first = torch.tensor([[rng.gauss(0, 1) for _ in range(site.in_features)]])
    left = left_by_low_rank(site.matrix().detach(), first).abs().flatten()
    rest = torch.ones(len(left), dtype=torch.bool)
    rest[places] = False
    assert len(places) == 16 and bool((places.diff() > 0).all()) and left[places].min() >= left[rest].max()
    assert set(places.tolist()) != set(site.matrix().detach().abs().flatten().topk(16).indices.tolist())


def test_dsee_resumes():
    assert_resumes(dsee, 2)


def test_dsees_errors():
    with pytest.raises(MethodError, match="fewer than"):
        dsee(num_sparse=10**6)
    assert smallest([torch.tensor([1.0, -2.0, 3.0, 4.0])], 0.5) == 2 and smallest([torch.ones(3)], 0.0) == -1
