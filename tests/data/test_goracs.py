"""GORACS: transport against linear programming, estimates against the dual that they bound, gradients against the
base's own, and groups against those that one exchange makes of them.
"""

from __future__ import annotations

import copy
import itertools
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from tunewright.conformance.reading import Reads
from tunewright.contract.method import call, torch_generator
from tunewright.contract.records import Record
from tunewright.data.select import _gradients, goracs
from tunewright.data.select._gradients import last_layers, norms
from tunewright.data.select._transport import Plan
from tunewright.data.select.goracs import GORACS, costs, greedy, refined, served, shares
from tunewright.errors import DataError, MethodError
from tunewright.pieces.low_rank import kaiming


def distance(c: np.ndarray) -> float:
    """Transport between equal masses by linear programming."""
    k, m = c.shape
    rows = [np.kron(np.eye(k)[i], np.ones(m)) for i in range(k)]
    columns = [np.kron(np.ones(k), np.eye(m)[j]) for j in range(m)]
    masses = np.r_[np.full(k, 1 / k), np.full(m, 1 / m)]
    return float(linprog(c.ravel(), A_eq=np.array(rows + columns)[:-1], b_eq=masses[:-1], method="highs").fun)


# -- exact transport ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_plans_are_those_of_linear_programming_before_and_after_exchanges(seed: int) -> None:
    rng = np.random.default_rng(seed)
    k, m = rng.integers(1, 9, 2)
    plan = Plan(rng.normal(size=(k, m)) if seed % 2 else rng.integers(0, 3, (k, m)))  # with ties, too
    for _ in range(4):
        assert plan.value == pytest.approx(distance(plan.costs), abs=1e-9)
        assert (plan.flow >= 0).all() and (plan.flow.sum(1) * k == plan.units).all()
        assert (plan.flow.sum(0) * m == plan.units).all()
        x = plan.potentials()
        assert x.mean() + (plan.costs - x[:, None]).min(0).mean() == pytest.approx(plan.value, abs=1e-9)
        place, other = int(rng.integers(k)), rng.normal(size=m)
        after = plan.exchanged(place, other)
        assert after is not None and plan.value == pytest.approx(distance(plan.costs), abs=1e-9)
        assert (plan.exchanged(place, other, plan.value) is None) == (after.value >= plan.value - 1e-12)
        plan = after


# -- the two stages ----------------------------------------------------------------------------------------------------


def test_each_pick_lowers_the_sum_of_nearest_costs_most() -> None:
    c = torch.from_numpy(np.random.default_rng(3).random((9, 4)))
    picked = greedy(c, 4)
    first = [int(c.mean(1).argmin())]
    for _ in range(3):
        sums = [float(c[[*first, i]].min(0).values.sum()) if i not in first else np.inf for i in range(9)]
        first.append(int(np.argmin(sums)))
    assert len(c.argmin(0).unique()) <= 4 and picked == first


def test_records_that_are_nearest_to_no_target_row_are_left_out_as_long_as_others_are_left() -> None:
    c = torch.ones(7, 8)
    c[0, :4], c[0, 4:] = 0.3, 1.1  # is picked first, and serves nobody once the two after it are there
    c[1, :2] = c[2, 2:4] = 0.0
    c[range(3, 7), range(4, 8)] = 0.5
    assert greedy(c, 5) == [1, 2, 3, 4, 5]  # four rows are served by four records: one more is picked
    assert greedy(c, 6) == [0, 1, 2, 3, 4, 5]  # only six could serve, so that all six picks stay


@pytest.mark.parametrize(("n", "m", "k"), [(7, 5, 3), (8, 6, 2), (6, 3, 4)])
def test_estimates_are_the_best_of_a_dual_and_bound_what_an_exchange_gives(n: int, m: int, k: int) -> None:
    c = np.random.default_rng(n).normal(size=(n, m))
    group = list(range(1, k + 1))
    plan = Plan(c[group])
    x = plan.potentials()
    found = served(torch.from_numpy(c), group, torch.from_numpy(x)).numpy()
    for i in range(n):
        others = [p for p, j in enumerate(group) if j != i]
        f = (c[np.array(group)[others]] - x[others, None]).min(0)
        ys = np.unique(np.r_[(c[i] - f), np.linspace(-9, 9, 721)])
        assert found[i] == pytest.approx(max(y / k + np.minimum(c[i] - f - y, 0).mean() for y in ys), abs=1e-9)
    f = (c[group] - x[:, None]).min(0)
    for place, o in itertools.product(range(k), set(range(n)) - set(group)):
        bound = (x.sum() - x[place]) / k + f.mean() + found[o]
        after = plan.exchanged(place, c[o])
        assert after is not None and bound <= after.value + 1e-9


def test_exchanges_go_on_until_none_lowers_the_distance() -> None:
    for seed in range(4):
        c = torch.from_numpy(np.random.default_rng(seed).random((12, 6)))
        start = greedy(c, 3)
        group, _ = refined(c, start, 100, 12)
        reached = distance(c[group].numpy())
        assert len(set(group)) == 3 and reached <= distance(c[start].numpy()) + 1e-12
        for place, o in itertools.product(range(3), set(range(12)) - set(group)):
            other = [*group[:place], o, *group[place + 1 :]]
            assert distance(c[other].numpy()) >= reached - 1e-9
    assert refined(c, start, 0, 12)[0] == start
    started = [0, 1, 2]
    assert len(set(refined(c, started, 1, 12)[0]) - set(started)) == 1


def test_an_exchange_is_tried_with_so_many_records_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = list[tuple[int, int]]()
    monkeypatch.setattr(
        goracs, "_better", lambda plan, inside, outside, rows: tried.append((len(inside), len(outside)))
    )
    c = torch.from_numpy(np.random.default_rng(0).random((9, 4)))
    for candidates in (1, 2, 30):
        refined(c, [0, 1, 2], 5, candidates)
    assert tried == [(1, 1), (2, 2), (3, 6)]
    assert refined(c, [4], 5, 2)[0] == [4]


# -- the selector ------------------------------------------------------------------------------------------------------


def test_gradients_are_those_of_the_base_s_own_weights_through_the_adapter_s_start() -> None:
    method = GORACS()
    reads = Reads(method)
    reader, model = reads.readers["start"], copy.deepcopy(reads.adapted.model).requires_grad_(True)
    found = norms(reader, "goracs", reads.records, 7)
    sites, rng = last_layers(reader, "goracs"), random.Random(7)
    assert {s.block for s in sites} == {len(reads.adapted.structure.blocks) - 1}
    starts = [kaiming(s, min(8, s.in_features, s.out_features), torch_generator(rng))[0] for s in sites]
    for record, norm in zip(reads.records, found.tolist(), strict=True):
        row = reader.rows_of(record)[0]
        labels = torch.tensor([[i if w > 0 else -100 for i, w in zip(row.input_ids, row.weights, strict=True)]])
        loss = model(input_ids=torch.tensor([list(row.input_ids)]), labels=labels).loss
        grads = torch.autograd.grad(loss, [model.get_submodule(s.name).weight for s in sites])
        own = [s.to_stored(g) if s.kind == "conv1d" else g for s, g in zip(sites, grads, strict=True)]
        total = sum(float((g @ A.T).square().sum()) for g, A in zip(own, starts, strict=True))
        assert norm == pytest.approx(total**0.5, rel=1e-4)


def test_it_keeps_the_group_of_least_distance_at_costs_of_states_and_gradients() -> None:
    method = GORACS(keep=3, gradient_weight=0.5)
    reads = Reads(method)
    found = reads.selected(method)
    unit = torch.nn.functional.normalize(reads.readers["start"].embeddings(reads.records), dim=1)
    c = torch.cdist(unit, unit[:4])
    g = torch.tensor(found.scores["gradient"])
    c = c / c.max() - 0.5 * g[:, None] / g.max()
    torch.testing.assert_close(costs(unit, unit[:4], g, 0.5), c)
    kept = distance(c[list(found.indices)].numpy())
    for place, o in itertools.product(range(3), set(range(12)) - set(found.indices)):
        other = [*found.indices[:place], o, *found.indices[place + 1 :]]
        assert distance(c[other].numpy()) >= kept - 1e-6
    assert [bool(r) for r in found.reasons or ()] == [i not in found.indices for i in range(12)]
    without = reads.selected(GORACS(keep=3, gradient_weight=0.0))
    assert "gradient" not in without.scores and without.scores["cost"] != found.scores["cost"]
    other = Reads(GORACS(keep=3, model="teacher")).selected(GORACS(keep=3, model="teacher"))
    assert other.scores["gradient"] != found.scores["gradient"]
    heavy = reads.selected(GORACS(keep=3, gradient_weight=100.0))
    assert set(heavy.indices) == set(np.argsort(-g.numpy())[:3].tolist())


def test_of_a_large_target_a_multiple_of_the_group_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[int]()
    reads = Reads(GORACS())
    plain = reads.readers["start"].embeddings

    def noted(some: Any) -> Any:
        seen.append(len(some))
        return plain(some)

    monkeypatch.setattr(reads.readers["start"], "embeddings", noted)
    for keep, most, used in ((3, 11, 9), (3, 2, 2), (3, 12, 12)):
        method = GORACS(keep=keep, most_targets=most)
        call(method, "select", **{**reads.offered, "target": reads.records}, rng=random.Random(0))
        assert seen[-2:] == [12, used]


def test_each_value_of_a_column_is_chosen_within_by_the_target_s_shares() -> None:
    assert shares(Counter({"a": 2, "b": 1, "c": 1}), 6) == {"a": 3, "b": 2, "c": 1}
    reads = Reads(GORACS())
    records = [Record({**r, "kind": "ab"[i % 2]}, id=r.id) for i, r in enumerate(reads.records)]
    aimed = [records[0], records[2], records[4], records[1]]
    before, reads.readers["start"].rows_of = reads.readers["start"].rows_of, None
    by_id = {r.id: before(r) for r in reads.records}
    reads.readers["start"].rows_of = lambda r: by_id[r.id]
    offered = {"readers": reads.readers, "rng": random.Random(0)}
    found = call(GORACS(keep=4, within="kind"), "select", records=records, target=aimed, **offered)
    assert Counter(records[i]["kind"] for i in found.indices) == {"a": 3, "b": 1}
    found = call(GORACS(keep=4, within="kind"), "select", records=records, target=aimed[:3], **offered)
    reasons = found.reasons or ()
    assert all(("no record of its kind" in why) == (i % 2 == 1) for i, why in enumerate(reasons))
    for some, said in ((aimed[:3], "ask for 7 records of 'kind' a, there are 6"), (reads.records[:2], "is missing")):
        with pytest.raises(DataError, match=said):
            call(GORACS(keep=7, within="kind"), "select", records=records, target=some, **offered)


def test_a_gradient_that_is_not_finite_names_its_row_and_the_model_is_left_whole() -> None:
    reads = Reads(GORACS())
    reader = reads.readers["start"]
    fine = reader.loss
    reader.loss = lambda r: fine(r) * (float("nan") if r is reads.records[5] else 1.0)  # type: ignore[method-assign]
    with pytest.raises(MethodError, match="no finite number") as error:
        norms(reader, "goracs", reads.records, 0)
    assert error.value.where == reads.records[5].where and not reads.adapted.deltas()
    reads.adapted.structure = type(reads.adapted.structure)((), ())
    with pytest.raises(MethodError, match="goracs reads gradients of an adapter"):
        last_layers(reader, "goracs")
    assert "def norms" in _gradients.CODE
