"""SPT: sensitivities of a plain loop, an allocation by brute force, and each tensor trained as it was allocated."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits
from tests.methods.selecting import BASES, rows_for, state_numbers, stayed
from tunewright.contract.method import Needs, State
from tunewright.errors import MethodError
from tunewright.methods.needs.sensitivity import Sensitivity
from tunewright.methods.parameter_selection.spt import SPT, allocated
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.deltas import LowRank, Sparse

SMALL = {"density": 0.03, "rank": 2, "batches": 2, "rows": 3}


@pytest.mark.parametrize("kind", BASES)
def test_sensitivities_are_sums_of_squared_gradients_of_batches(kind):
    make, task = BASES[kind]
    rows = rows_for(task)
    r = Run({"spt": SPT(**SMALL)}, model=make(), task=task, sources={"new": rows})
    found = Sensitivity(batches=2, rows=3).compute(r.provider.context)
    model, total = make(), {}
    picked = random.Random("0/sensitivity/train").sample(rows, 6)
    for group in (picked[:3], picked[3:]):
        batch = r.task.collate(group, False, seed=0)
        loss = r.task.loss(r.task.forward(model, batch), batch)
        model.zero_grad()
        ((loss.value * batch.weights).sum() / batch.weights.sum()).backward()
        for n, p in model.named_parameters():
            if p.grad is not None:
                total[n] = total.get(n, 0.0) + p.grad**2
    blocks = {s.weight_name for s in r.adapted.structure.linear_sites()}
    assert found.keys() == blocks | {n for n, p in model.named_parameters() if p.dim() == 1 and "patch_embed" not in n}
    for name, s in found.items():
        torch.testing.assert_close(s, total[name], atol=1e-9, rtol=2e-3)
    assert not any(p.requires_grad and n in blocks for n, p in r.adapted.base_parameters().items())


def scores(seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = {"a": (6, 10), "b": (12, 6), "v": (10,), "c": (8, 8), "w": (6,)}
    sizes = {"a": 3.0, "b": 0.3, "v": 2.0, "c": 1.0, "w": 0.4}
    return {n: torch.rand(s, generator=g) * sizes[n] for n, s in shapes.items()}


def by_hand(s, tau, rank, alpha, beta):
    names = list(s)
    flat = [(float(x), n, i) for n in names for i, x in enumerate(s[n].flatten())]
    top = sorted(flat, key=lambda e: -e[0])[:tau]
    pairs, vectors, places, total = set(), set(), {}, 0
    for n in names:
        mine = sorted(i for _, m, i in top if m == n)
        if s[n].dim() == 2:
            whole, least = rank * sum(s[n].shape), rank * sum(s[n].shape) / alpha
        else:
            whole, least = s[n].numel(), s[n].numel() / beta
        if mine and len(mine) >= least:
            (pairs if s[n].dim() == 2 else vectors).add(n)
            total += whole
        elif mine:
            places[n] = mine
            total += len(mine)
    return pairs, vectors, places, total


@pytest.mark.parametrize("tau", [1, 5, 20, 60, 150])
def test_an_allocation_of_one_tau_is_the_one_by_hand(tau):
    s = scores()
    made = allocated(s, 100, 2, 3.0, 5.0, tau=tau)
    pairs, vectors, places, total = by_hand(s, tau, 2, 3.0, 5.0)
    assert (set(made.pairs), set(made.vectors), made.numbers) == (pairs, vectors, total)
    assert {n: p.tolist() for n, p in made.places.items()} == places
    whole = torch.cat([x.flatten() for x in s.values()])
    assert made.share == pytest.approx(float(whole.topk(tau).values.sum() / whole.sum()), rel=1e-4)


def test_counts_and_so_the_pairs_only_grow_with_tau():
    before: set[str] = set()
    for tau in range(1, 200, 7):
        now = {*allocated(scores(1), 100, 2, 3.0, 5.0, tau=tau).pairs}
        assert before <= now
        before = now


@pytest.mark.parametrize("budget", [10, 40, 90])
def test_of_the_grid_the_nearest_to_the_budget_is_taken(budget):
    s = scores(2)
    made = allocated(s, budget, 2, 3.0, 5.0)
    totals = [by_hand(s, int(np.ceil(k * budget / 50)), 2, 3.0, 5.0)[3] for k in range(1, 80)]
    nearest = min(abs(t - budget) for t in totals)
    assert (
        abs(made.numbers - budget) == nearest and made.numbers == [t for t in totals if abs(t - budget) == nearest][-1]
    )


@pytest.mark.parametrize("kind", BASES)
def test_every_tensor_trains_as_it_was_allocated(kind):
    make, task = BASES[kind]
    adapted = Adapted(make())
    adapted.new = tuple(n for n, _ in make().named_parameters() if n.startswith("classifier"))
    r = Run({"spt": SPT(**SMALL)}, model=adapted, task=task, sources={"new": rows_for(task)}, steps=2)
    data, start = r.state("spt").data, {n: p.detach().clone() for n, p in r.adapted.base_parameters().items()}
    deltas = {n: d["spt"] for n, d in r.adapted.deltas().items()}
    paired = {f"{n}.weight" for n, d in deltas.items() if isinstance(d, LowRank)}
    assert paired == set(data["pairs"]) and paired and (data["vectors"] or kind == "vision")
    assert all(not d.change().any() for d in deltas.values()), "the model starts as the base"
    assert all(d.scale == 1.0 and d.rank == 2 and d.dropout == 0.1 for d in deltas.values() if isinstance(d, LowRank))
    assert any(isinstance(d, Sparse) for d in deltas.values())
    loop = r.train()
    head = sum(p.numel() for n, p in make().named_parameters() if n in adapted.new)
    assert loop.trained.count() == data["numbers"] + head and state_numbers(loop) == 2 * loop.trained.count()
    assert abs(data["numbers"] - data["budget"]) < 0.25 * data["budget"]
    for name, same in stayed(r.adapted.model, make()).items():
        if name in adapted.new:
            continue
        moved = set((~same).flatten().nonzero()[:, 0].tolist())
        single = set(() if start[name].dim() == 2 else r.state("spt").get(f"places.{name}", torch.tensor([])).tolist())
        assert moved <= (set(range(same.numel())) if name in data["vectors"] else single), name


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_sparse_places_are_the_sensitive_entries_of_the_stored_weight(make):
    r = Run({"spt": SPT(**{**SMALL, "density": 0.002, "alpha": 1.0})}, model=make())
    found = r.provider.statistics(next(iter(r.methods)))["sensitivity"]
    sparse = {n: d["spt"] for n, d in r.adapted.deltas().items() if isinstance(d["spt"], Sparse)}
    assert sparse
    for name, d in sparse.items():
        s = found[f"{name}.weight"]
        as_matrix = s.t() if make is tiny.gpt2 else s
        chosen = as_matrix.flatten()[d.indices]
        rest = as_matrix.flatten().clone()
        rest[d.indices] = -1
        assert float(chosen.min()) >= float(rest.max()) and bool((d.indices.diff() > 0).all())


def test_chance_ranks_by_a_draw_and_holds_less_of_the_sensitivity():
    held = {}
    for by in ("sensitivity", "chance"):
        r = Run({"spt": SPT(**SMALL, by=by)})
        held[by] = r.methods.bound[0].method.found(r.state("spt")).values["sensitivity_share"]
    assert 0 < held["chance"] < 0.5 * held["sensitivity"] <= 0.5


def test_a_model_of_convolutions_is_refused():
    with pytest.raises(MethodError, match="no linear layer"):
        Run({"spt": SPT()}, model=tiny.efficientnet(), task="image-classification")


def test_it_allocates_once_and_resumes():
    method, needs = SPT(**SMALL), Needs({"sensitivity": scores()})
    state = State(budget=60)
    sites = Run({}).adapted.structure.sites
    assert all(method.attach(s, needs, state, random.Random(0)) is None for s in sites)
    assert state.data["numbers"] > 0
    assert_resumes(lambda listen: Run({"spt": SPT(**SMALL)}, steps=4, listen=listen), 2)


def test_it_starts_and_folds_as_the_base():
    r = Run({"spt": SPT(**SMALL)}, steps=3)
    assert agrees(logits(r.adapted.model), logits(tiny.llama()))
    r.train()
    tuned = logits(r.adapted.model)
    r.adapted.fold()
    torch.testing.assert_close(logits(r.adapted.model), tuned, atol=1e-4, rtol=1e-4)
