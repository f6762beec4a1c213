"""Selectors that read with a model: perplexities against transformers' own loss, duals against linear programming,
the linear rule by hand, diversity by the words of its definition.
"""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.spatial.distance import cdist

from tunewright.catalogue import build
from tunewright.conformance.reading import Reads
from tunewright.contract.records import Record
from tunewright.data.select import got_d, instructmining
from tunewright.data.select._lexical import mtld
from tunewright.data.select._text import answer_of
from tunewright.data.select.got_d import GOTD, gradients, potentials
from tunewright.data.select.instructmining import AUTHORS, InstructMining, neighbour_distances
from tunewright.data.select.perplexity import Perplexity, between
from tunewright.errors import DataError
from tunewright.models.flops import counting
from tunewright.recipe import MethodUse

# -- perplexity --------------------------------------------------------------------------------------------------------


def own_loss(model, row) -> float:
    """transformers' loss of one row, alone: the mean over tokens with a label."""
    ids = torch.tensor([list(row.input_ids)])
    labels = torch.tensor([[i if w > 0 else -100 for i, w in zip(row.input_ids, row.weights, strict=True)]])
    with torch.no_grad():
        return float(model(input_ids=ids, labels=labels).loss)


def test_perplexities_are_those_of_transformers_and_the_band_is_kept():
    method = Perplexity(low=0.25, high=0.75)
    reads = Reads(method)
    found = reads.selected(method)
    rows = [reads.readers["start"].rows_of(r)[0] for r in reads.records]
    expected = [own_loss(reads.adapted.model, row) for row in rows]
    np.testing.assert_allclose(found.scores["loss"], expected, rtol=1e-5)
    ranks = np.argsort(np.argsort(expected))
    assert list(found.indices) == [i for i in range(12) if 3 <= ranks[i] < 9]
    assert [bool(reason) for reason in found.reasons or ()] == [i not in found.indices for i in range(12)]
    below = found.reasons[int(np.argmin(expected))]
    assert below.startswith("perplexity below") and f"{math.exp(sorted(expected)[3]):.3g}"[:3] in below


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.floats(0, 0.9), st.floats(0.01, 1))
def test_a_band_is_never_empty_and_holds_no_value_outside_of_its_ranks(losses, low, width):
    high = min(1.0, low + width)
    kept = between(losses, low, high)
    assert kept and kept == sorted(set(kept))
    n = len(losses)
    assert len(kept) == max(1, round(high * n) - min(round(low * n), n - 1))
    order = sorted(range(n), key=lambda i: (losses[i], i))
    assert {order.index(i) for i in kept} == set(range(min(map(order.index, kept)), max(map(order.index, kept)) + 1))


def test_a_named_model_reads_in_the_place_of_the_start():
    a, b = (Reads(m).selected(m).scores["loss"] for m in (Perplexity(), Perplexity(model="teacher")))
    assert a != b


def test_an_empty_band_is_refused():
    with pytest.raises(ValueError, match="must be below"):
        Perplexity(low=0.5, high=0.5)


# -- got-d -------------------------------------------------------------------------------------------------------------


def exact_duals(c: np.ndarray) -> np.ndarray:
    """[n] potentials of the candidates by linear programming: they tell how the distance changes with their masses."""
    n, m = c.shape
    rows = [np.kron(np.eye(n)[i], np.ones(m)) for i in range(n)]
    columns = [np.kron(np.ones(n), np.eye(m)[j]) for j in range(m)]
    masses = np.r_[np.full(n, 1 / n), np.full(m, 1 / m)]
    found = linprog(c.ravel(), A_eq=np.array(rows + columns)[:-1], b_eq=masses[:-1], method="highs")
    return np.asarray(found.eqlin.marginals[:n])


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
def test_gradients_go_to_those_of_exact_transport(seed):
    """7 and 5 points have no partial sums of masses in common, so that the exact duals are unique up to a constant."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 0.5
    exact = gradients(torch.tensor(exact_duals(cdist(x, y)))).numpy()
    f, _ = potentials(torch.tensor(x), torch.tensor(y), 0.002)
    np.testing.assert_allclose(gradients(f).numpy(), exact, atol=0.05)


def test_a_gradient_is_the_change_of_the_distance_when_mass_moves_to_a_candidate():
    rng = np.random.default_rng(3)
    c = cdist(rng.normal(size=(6, 2)), rng.normal(size=(5, 2)) + 1)
    values = gradients(torch.tensor(exact_duals(c))).numpy()

    def distance(masses):
        rows = [np.kron(np.eye(6)[i], np.ones(5)) for i in range(6)]
        columns = [np.kron(np.ones(6), np.eye(5)[j]) for j in range(5)]
        equal = np.array(rows + columns)[:-1]
        return linprog(c.ravel(), A_eq=equal, b_eq=np.r_[masses, np.full(5, 0.2)][:-1], method="highs").fun

    even, t = np.full(6, 1 / 6), 1e-4
    for i in range(6):
        moved = even + t * np.where(np.arange(6) == i, 1.0, -1 / 5)
        assert (distance(moved) - distance(even)) / t == pytest.approx(values[i], abs=1e-5)


def test_both_sides_of_the_plan_have_their_masses_and_chunks_change_nothing(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(23, 4, generator=rng), torch.randn(9, 4, generator=rng)
    f, g = potentials(x, y, 0.1)
    c = torch.cdist(x.double(), y.double())
    e = 0.1 * float(c.mean())
    plan = torch.exp((f[:, None] + g - c) / e) / (23 * 9)
    torch.testing.assert_close(plan.sum(0), torch.full((9,), 1 / 9, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(1), torch.full((23,), 1 / 23, dtype=torch.float64), rtol=1e-3, atol=0.0)
    monkeypatch.setattr(got_d, "CHUNK", 5)
    torch.testing.assert_close(potentials(x, y, 0.1)[0], f)


def test_got_d_keeps_the_most_negative_gradients_of_the_model_s_embeddings():
    method = GOTD(keep=4, regularisation=0.002)
    reads = Reads(method)
    model = reads.adapted.model

    def mean_state(record):
        ids = torch.tensor([list(reads.readers["start"].rows_of(record)[0].input_ids)])
        with torch.no_grad():
            state = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].mean(0)
        return (state / state.norm()).double().numpy()

    x = np.stack([mean_state(r) for r in reads.records])
    # of 11 candidates and 4 targets no masses have a partial sum in common: the exact duals are unique
    given = method.select(reads.records[:11], reads.records[8:], reads.readers, random.Random(0))
    exact = gradients(torch.tensor(exact_duals(cdist(x[:11], x[8:]))))
    np.testing.assert_allclose(given.scores["gradient"], exact, atol=0.05)
    assert list(given.indices) == sorted(range(11), key=lambda i: given.scores["gradient"][i])[:4]


def test_more_targets_than_asked_for_are_drawn():
    whole, drawn = (Reads(m).selected(m).scores["gradient"] for m in (GOTD(keep=2), GOTD(keep=2, most_targets=2)))
    assert whole != drawn
    method, reads = GOTD(keep=2, most_targets=2), Reads(GOTD())
    both = [method.select(reads.records, reads.records[:4], reads.readers, random.Random(s)).scores for s in (1, 1, 2)]
    assert both[0] == both[1] != both[2]


def test_equal_points_need_no_transport():
    x = torch.ones(3, 2)
    assert potentials(x, x[:2])[0].tolist() == [0.0, 0.0, 0.0] and gradients(torch.zeros(1)).tolist() == [0.0]


def test_the_solver_s_products_are_counted():
    with counting() as counted:
        potentials(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 3))
    assert counted.total >= 2 * 6 * 2 * 3 * 3  # at least the look at the costs and two rounds


# -- instructmining ----------------------------------------------------------------------------------------------------


def test_the_rule_is_the_authors_and_keeps_its_lowest():
    method = InstructMining(keep=3, neighbour=2)
    reads = Reads(method)
    found = reads.selected(method)
    reader = reads.readers["start"]
    lengths = [sum(w > 0 for w in reader.rows_of(r)[0].weights) for r in reads.records]
    unit = torch.nn.functional.normalize(reader.embeddings(reads.records), dim=1).double().numpy()
    near = np.sort(cdist(unit, unit), axis=1)[:, 2]
    np.testing.assert_allclose(found.scores["knn"], near, atol=1e-4)
    expected = 8.257e-5 * np.array(lengths) - 0.9350 * near
    np.testing.assert_allclose(found.scores["rule"], expected, atol=1e-4)
    assert list(found.indices) == list(np.argsort(found.scores["rule"], kind="stable")[:3])
    assert AUTHORS["reward"] == -0.1498 and "reward" not in found.scores


def test_a_rule_of_one_s_own_replaces_the_authors():
    method = InstructMining(keep=2, coefficients={"loss": -1.0, "mtld": 0.25})
    reads = Reads(method)
    found = reads.selected(method)
    losses = [own_loss(reads.adapted.model, reads.readers["start"].rows_of(r)[0]) for r in reads.records]
    diversity = [mtld(r["completion"]) for r in reads.records]
    np.testing.assert_allclose(found.scores["rule"], -np.array(losses) + 0.25 * np.array(diversity), rtol=1e-5)
    assert set(found.scores) == {"loss", "mtld", "rule"}


def test_a_column_of_rewards_counts_and_a_missing_one_is_named():
    method = InstructMining(keep=1)
    reads = Reads(method)
    for i, record in enumerate(reads.records):
        record["reward"] = 100.0 if i == 7 else "0.0"  # as a table's cell, too
    found = reads.selected(method)
    assert list(found.indices) == [7] and found.scores["reward"][7] == 100.0
    del reads.records[3]["reward"]
    with pytest.raises(DataError, match="is missing"):
        reads.selected(method)


@pytest.mark.parametrize("rule", [{"unieval": 1.0}, {}])
def test_an_indicator_that_is_none_is_refused(rule):
    with pytest.raises(ValueError, match="there are length, loss, knn, mtld, reward"):
        InstructMining(coefficients=rule)


def test_lexical_diversity_by_hand():
    # a a: ratio 1/2 after two words, a stretch of its own: two words a stretch, both ways
    assert mtld("a a a a") == 2.0
    # six different words never fall to 0.72
    assert mtld("one two three four five six") == 6.0
    # forwards: a b a b ends a stretch at the third word (2/3), then "b" begins one with ratio 1; backwards alike
    assert mtld("a b a b") == 4.0
    # forwards one stretch of two words and none of the others; backwards 1/6 of the way to 0.28 in six words
    assert mtld("a a b c d e") == pytest.approx((6.0 + 6.0 / ((1 / 6) / 0.28)) / 2)
    assert mtld("") == 0.0
    varied, dull = "the old fisher rowed his boat across a cold grey lake", "the boat and the boat and the boat"
    assert mtld(varied) > mtld(dull)


def test_neighbours_do_not_depend_on_chunks_or_lengths(monkeypatch):
    x = torch.randn(11, 3, generator=torch.Generator().manual_seed(1))
    whole = neighbour_distances(x, 3)
    monkeypatch.setattr(instructmining, "CHUNK", 4)
    torch.testing.assert_close(neighbour_distances(2.5 * x, 3), whole, rtol=1e-4, atol=1e-5)
    assert neighbour_distances(x[:1], 6).tolist() == [0.0] and len(neighbour_distances(x[:3], 6)) == 3


def test_answers_of_all_shapes():
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "you"}]
    assert answer_of({"messages": chat}) == "you" and answer_of({"prompt": "a", "completion": "b"}) == "b"
    assert answer_of({"text": "c"}) == "c" and answer_of({"prompt": "a", "chosen": chat}) == "you"


def test_recipes_name_them():
    assert build(MethodUse(name="got-d", params={"keep": "10%"})).keep == pytest.approx(0.1)  # type: ignore[attr-defined]
    assert build(MethodUse(name="instructmining", params={"keep": "5%"})).keep == 0.05  # type: ignore[attr-defined]
    assert isinstance(build(MethodUse(name="perplexity")), Perplexity)
    assert Record({"text": "x"}, id="a").where == "a"
