"""SpIEL: k is constant, dropped entries are the base's again, moments follow their places, a stopped run goes on."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits
from tunewright.contract.method import Candidates, Needs
from tunewright.methods.needs.full_gradient import FullGradient, Gathered
from tunewright.methods.parameter_selection.spiel import SpIEL, budgets, moved_places
from tunewright.models.agreement import agrees


def make(listen=None, model=None, **fields) -> Run:
    method = SpIEL(**{"density": 0.05, "first": 2, "every": 3, "rate": 0.5, "batches": 2, "rows": 3, **fields})
    return Run({"spiel": method}, model=model, steps=8, listen=listen)


def deltas(run):
    return {n: d["spiel"] for n, d in run.adapted.deltas().items()}


def test_the_budget_is_spread_by_size():
    assert budgets({"a": 300, "b": 100, "c": 2}, 40.0) == {"a": 29, "b": 9, "c": 1}
    assert budgets({"a": 5}, 100.0) == {"a": 5}


def test_the_smallest_give_way_to_the_best_that_are_not_trained():
    places, values = torch.tensor([1, 4, 6, 9]), torch.tensor([0.1, -3.0, 0.2, 2.0])
    grown = Gathered(torch.tensor([2, 4, 6, 8]), torch.tensor([-1.0, 9.0, 5.0, 0.5]), torch.ones(4))
    # 1 and 6 are dropped; of the candidates 4 still trains, 6 grows back, 2 is next
    assert moved_places(places, values, grown, 2).tolist() == [2, 4, 6, 9]
    assert moved_places(places, values, grown, 4).tolist() == [2, 4, 6, 8]
    assert moved_places(places, values, grown, 0).tolist() == places.tolist()
    few = Gathered(torch.tensor([4, 9]), torch.ones(2), torch.ones(2))
    assert moved_places(places, values, few, 2).tolist() == places.tolist()


def test_the_first_places_are_drawn_evenly_from_the_whole_weight():
    run = make()
    site = run.adapted.structure.site("model.layers.0.mlp.up_proj")
    method, state = SpIEL(density=0.05), run.state("spiel")
    size, count = site.weight.numel(), state.data["counts"][site.name]
    drawn = [method.attach(site, state, random.Random(seed)) for seed in range(200)]
    hits = torch.zeros(size)
    for delta in drawn:
        places = delta.indices
        assert len(places) == count == len(places.unique()) and torch.equal(places, places.sort().values)
        assert not delta.values.any() and 0 <= int(places[0]) and int(places[-1]) < size
        hits[places] += 1
    # eight parts of the weight, each with its share of 200 x count places (a binomial's deviation is under 1 %)
    parts = torch.stack([part.sum() for part in hits.chunk(8)]) / (200 * count)
    torch.testing.assert_close(parts, torch.full((8,), 1 / 8), atol=0.01, rtol=0)
    assert not torch.equal(drawn[0].indices, drawn[1].indices)
    assert torch.equal(drawn[0].indices, method.attach(site, state, random.Random(0)).indices)


def test_the_budget_is_a_share_of_the_whole_model_spread_over_the_targets():
    run = make(target_modules=["q_proj", "v_proj"])
    model = tiny.llama()
    total = 0.05 * sum(p.numel() for p in model.parameters())
    sizes = {n: m.weight.numel() for n, m in model.named_modules() if n.endswith(("q_proj", "v_proj"))}
    wanted = {n: min(size, int(total * size / sum(sizes.values()))) for n, size in sizes.items()}
    assert {n: len(d.indices) for n, d in deltas(run).items()} == wanted


@pytest.mark.parametrize(("step", "share"), [(2, 1.0), (3, 0.9 * 5 / 8), (6, 0.9 * 2 / 8)])
def test_choose_replaces_its_share_of_the_smallest_by_the_best_candidates(step, share):
    """Every candidate lies outside of what trains, so that as many places move as the share says."""
    run = make(rate=0.9)
    with torch.no_grad():
        for d in deltas(run).values():
            d.values.copy_(torch.linspace(-1.0, 0.9, len(d.values)))
    grown = {}
    for name, d in deltas(run).items():
        size = run.adapted.structure.site(name).weight.numel()
        free = torch.tensor(sorted(set(range(size)) - set(d.indices.tolist())))[: len(d.indices)]
        sign = torch.where(torch.arange(len(free)) % 2 == 0, 1.0, -1.0)
        grown[name] = Gathered(free, sign * torch.arange(1.0, len(free) + 1), torch.ones(len(free)))
    needs = Needs({"full_gradient": lambda counts, at: grown})
    plan = replace(run.plan, steps=8)
    choice = run.methods.bound[0].method.choose(Candidates(run.adapted), step, plan, needs, run.state("spiel"))
    assert (choice.redraw_every, choice.moments) == (3, "preserve") and len(choice.places) == 14
    for name, places in choice.places.items():
        site = name.split(".delta.")[0]
        d, count = deltas(run)[site], int(share * len(deltas(run)[site].indices))
        order = sorted(range(len(d.values)), key=lambda i: abs(float(d.values.detach()[i])))
        stay = {int(d.indices[i]) for i in order[count:]}
        best = {int(p) for p in grown[site].places[len(grown[site].places) - count :]}
        assert set(places.tolist()) == stay | best
        mean, square = choice.seeds[name]
        at = dict(zip(grown[site].places.tolist(), grown[site].mean.tolist(), strict=True))
        assert all(m == at[p] for p, m in zip(places.tolist(), mean.tolist(), strict=True) if p in best)
        assert len(square) == len(places)


@pytest.mark.parametrize("maker", [tiny.llama, tiny.gpt2])
def test_gathered_gradients_are_the_dense_ones(maker):
    run = make(model=maker())
    with torch.no_grad():
        for d in deltas(run).values():
            d.values.fill_(0.05)
    context = run.provider.context
    counts = {n: d.indices.numel() for n, d in deltas(run).items()}
    found = FullGradient(batches=1, rows=4).compute(context)(counts, 3)
    rows = random.Random("0/full_gradient/train/3").sample(context.rows["train"], 4)
    batch = run.task.collate(rows, False, seed=0)
    with run.adapted.at_strength(1.0) as model:
        for s in run.adapted.structure.linear_sites():
            s.module.weight.requires_grad_(True)
        out = run.task.loss(run.task.forward(model, batch), batch)
        (out.value * batch.weights).sum().div(batch.weights.sum()).backward()
        for name, g in found.items():
            site = run.adapted.structure.site(name)
            dense = (site.weight.grad.t() if site.kind == "conv1d" else site.weight.grad).reshape(-1)
            torch.testing.assert_close(g.mean, dense[g.places], atol=1e-6, rtol=1e-4)
            torch.testing.assert_close(g.square, dense[g.places] ** 2, atol=1e-6, rtol=1e-4)
            assert float(g.mean.abs().min()) >= float(dense.abs().sort(descending=True).values[len(g.places)]) - 1e-6


def test_the_need_leaves_the_model_as_it_was():
    run = make()
    before = {n: (p.requires_grad, p.grad) for n, p in run.adapted.model.named_parameters()}
    FullGradient().compute(run.provider.context)({n: 3 for n in deltas(run)}, 0)
    assert {n: (p.requires_grad, p.grad) for n, p in run.adapted.model.named_parameters()} == before


def test_k_is_constant_and_what_is_dropped_is_the_base_s_again():
    seen = []

    def listen(loop):
        seen.append({n: (d.indices.clone(), d.values.detach().clone()) for n, d in deltas(run).items()})

    run = make(listen)
    counts = {n: d.indices.numel() for n, d in deltas(run).items()}
    base = tiny.llama()
    run.train()
    moved = [sum(not torch.equal(a[n][0], b[n][0]) for n in a) for a, b in zip(seen, seen[1:], strict=False)]
    assert [bool(m) for m in moved] == [False, True, True, False, False, True, False]  # after the steps 2, 3 and 6
    for state in seen:
        for n, (places, _) in state.items():
            assert len(places) == counts[n] == len(places.unique()) and torch.equal(places, torch.sort(places).values)
    visited = {n: torch.cat([s[n][0] for s in seen]).unique() for n in counts}
    with run.adapted.at_strength(1.0) as model:
        for n, places in visited.items():
            now, then = model.get_submodule(n).weight.reshape(-1), base.get_submodule(n).weight.reshape(-1)
            gone = places[~torch.isin(places, deltas(run)[n].indices)]
            assert len(gone) and torch.equal(now[gone], then[gone])
    with run.adapted.base() as model:
        assert agrees(logits(model), logits(base))
    assert not agrees(logits(run.adapted.model), logits(base)) and not run.adapted.originals


def test_moments_follow_their_places_and_newcomers_are_seeded():
    held = []

    def listen(loop):
        if loop.step_number != 3:
            return
        state = {k: t.clone() for k, t in loop.optimizers.state().items()}
        before = {n: d.indices.clone() for n, d in deltas(run).items()}
        choice = loop._draw()
        loop.optimizers.redraw(choice)
        held.append((before, state, choice, {k: t.clone() for k, t in loop.optimizers.state().items()}))

    run = make(listen, rate=1.0)
    run.train()
    before, old, choice, new = held[0]
    kept_any = new_any = False
    for name, places in choice.places.items():
        was = before[name.split(".delta.")[0]]
        step = float(old[f"{name}|step"])
        assert step == float(new[f"{name}|step"]) == 3
        for part, seed, beta in (("exp_avg", choice.seeds[name][0], 0.9), ("exp_avg_sq", choice.seeds[name][1], 0.999)):
            dense = torch.zeros(10_000)
            dense[was] = old[f"{name}|{part}"]
            kept = torch.isin(places, was)
            assert torch.equal(new[f"{name}|{part}"][kept], dense[places[kept]])
            torch.testing.assert_close(new[f"{name}|{part}"][~kept] / (1 - beta**step), seed[~kept])
            kept_any, new_any = kept_any or bool(kept.any()), new_any or bool((~kept).any())
    assert kept_any and new_any


def test_memory_follows_the_selection():
    run = make()
    loop = run.train()
    k = sum(d.indices.numel() for d in deltas(run).values())
    assert loop.trained.count() == k == sum(p.numel() for p in loop.trained.parameters().values())
    assert sum(t.numel() for n, t in loop.optimizers.state().items() if t.dim()) == 2 * k
    assert sum(t.numel() for t in loop.trained.changed().values()) == 2 * k  # values and places


@pytest.mark.parametrize("at", [1, 2, 3, 5, 6])
def test_resumes(at):
    assert_resumes(make, at)


def test_decay_pulls_towards_the_base():
    def size(decay):
        run = Run({"spiel": SpIEL(density=0.05, first=100)}, steps=6, weight_decay=decay)
        run.train()
        return sum(float(d.values.detach().abs().sum()) for d in deltas(run).values())

    assert size(20.0) < 0.8 * size(0.0)
