"""The cursor's properties: resumable anywhere, the same stream for every batch size, shares kept within a row."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import small
from tunewright.contract.batch import Row
from tunewright.data import dataset
from tunewright.data.order import Cursor, natural_shares, sizes, with_replay
from tunewright.data.position import permutation
from tunewright.errors import CheckpointError, DataError
from tunewright.recipe import Recipe
from tunewright.runs import selecting
from tunewright.runs.run import run
from tunewright.training.budget import epochs_of, steps_per_epoch


@dataclass
class Rows:
    name: str
    rows: list[Row]
    hash: str = "h"
    ordered: bool = False


def make(sizes: dict[str, list[int]]) -> list[Rows]:
    return [Rows(n, [Row(f"{n}:{i}", n, [0] * s) for i, s in enumerate(ss)]) for n, ss in sizes.items()]


lengths = st.lists(st.integers(1, 30), min_size=1, max_size=12)
sources = st.dictionaries(st.sampled_from("abc"), lengths, min_size=1, max_size=3)
shares = st.fixed_dictionaries({n: st.floats(0.01, 1) for n in "abc"})


def cursor(sizes, weights, batch_tokens=40, seed=0, **more) -> Cursor:
    return Cursor(make(sizes), {n: weights[n] for n in sizes}, seed=seed, batch_tokens=batch_tokens, **more)


def names(batches) -> list[tuple[str, int]]:
    return [(r.id, e) for b in batches for r, e in b]


@given(sources, shares, st.integers(0, 15), st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_restored_anywhere_the_stream_goes_on(sizes, weights, steps, batch_tokens):
    one, other = cursor(sizes, weights, batch_tokens), cursor(sizes, weights, batch_tokens)
    for _ in range(steps):
        one.next_batch()
    other.restore(json.loads(json.dumps(one.state())))
    assert names(one.next_batch() for _ in range(8)) == names(other.next_batch() for _ in range(8))
    assert one.state() == other.state()


@given(sources, shares, st.integers(1, 100), st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_the_stream_does_not_depend_on_the_batch_size(sizes, weights, small, large):
    one, other = cursor(sizes, weights, small), cursor(sizes, weights, large)
    a, b = names(one.next_batch() for _ in range(20)), names(other.next_batch() for _ in range(20))
    n = min(len(a), len(b))
    assert a[:n] == b[:n]


@given(sources, shares, st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_batches_hold_whole_rows_up_to_their_size(sizes, weights, batch_tokens):
    stream = cursor(sizes, weights, batch_tokens)
    for _ in range(20):
        batch = stream.next_batch()
        assert len(batch) == 1 or sum(r.size for r, _ in batch) <= batch_tokens


@given(sources, shares)
@settings(max_examples=80, deadline=None)
def test_no_source_gets_more_than_a_row_over_its_share_at_any_time(sizes, weights):
    stream = cursor(sizes, weights, 1)
    largest = max(max(s) for s in sizes.values())
    for _ in range(60):
        stream.next_batch()
        total = sum(stream.given.values())
        over = {n: stream.given[n] - w * total for n, w in stream.weights.items()}
        assert all(x < largest + 1e-6 for x in over.values())
        assert len(sizes) > 2 or all(abs(x) < largest + 1e-6 for x in over.values())


def test_a_small_share_is_kept_over_many_small_batches():
    stream = cursor({"a": [7, 9, 8], "b": [5, 6]}, {"a": 0.99, "b": 0.01}, batch_tokens=16)
    for _ in range(2000):
        stream.next_batch()
    total = sum(stream.given.values())
    assert abs(stream.given["b"] - 0.01 * total) < 9


@given(lengths, st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_an_epoch_gives_each_row_once(sizes, seed):
    stream = cursor({"a": sizes}, {"a": 1}, 1, seed)
    for epoch in range(3):
        seen = [stream.next_batch()[0] for _ in sizes]
        assert sorted(r.id for r, _ in seen) == sorted(f"a:{i}" for i in range(len(sizes))) and {
            e for _, e in seen
        } == {epoch}
    assert stream.epochs == {"a": 3.0}


def test_natural_shares_end_all_sources_together():
    sizes = {"a": [10] * 30, "b": [10] * 10}
    stream = cursor(sizes, natural_shares({"a": 300, "b": 100}), 40)
    for _ in range(10):
        stream.next_batch()
    assert stream.epochs == {"a": 1.0, "b": 1.0}


def test_order_without_shuffle_and_orders_that_differ_by_epoch_and_seed():
    stream = cursor({"a": [1, 2, 3]}, {"a": 1}, 6, shuffle=False)
    assert [r.id for r, _ in stream.next_batch()] == ["a:0", "a:1", "a:2"]
    orders = {tuple(permutation(20, s, n, e)) for s in (0, 1) for n in "ab" for e in (0, 1)}
    assert len(orders) == 8


def test_rows_that_a_selector_put_in_order_come_so_in_the_first_pass_alone():
    def fresh(**more) -> Cursor:
        data = make({"a": [1] * 12})
        data[0].ordered = True
        return Cursor(data, {"a": 1}, seed=0, batch_tokens=4, **more)

    stream, standing = fresh(), [f"a:{i}" for i in range(12)]
    drawn = [r.id for _ in range(6) for r, _ in stream.next_batch()]
    assert drawn[:12] == standing and drawn[12:] != standing and sorted(drawn[12:]) == sorted(standing)
    stream, again = fresh(), fresh()
    stream.next_batch()
    again.restore(stream.state())
    assert [r.id for _ in range(5) for r, _ in again.next_batch()] == drawn[4:]
    same = fresh(shuffle=False)
    assert [r.id for _ in range(6) for r, _ in same.next_batch()] == 2 * standing


def test_weights_set_between_batches_hold_from_the_next_row():
    stream = cursor({"a": [5] * 4, "b": [5] * 4}, {"a": 1, "b": 0}, 20)
    assert {r.source for r, _ in stream.next_batch()} == {"a"}
    stream.weights = {"b": 3.0}
    assert {r.source for r, _ in stream.next_batch()} == {"b"} and stream.weights == {"a": 0.0, "b": 1.0}


def test_replay_takes_its_exact_share():
    assert with_replay({"a": 3, "b": 1}, {"general": 0.2}) == pytest.approx({"a": 0.6, "b": 0.2, "general": 0.2})
    with pytest.raises(DataError, match="nothing to learn"):
        with_replay({"a": 1}, {"b": 0.5, "c": 0.5})


def test_what_cannot_be_is_refused():
    with pytest.raises(DataError, match="did you mean 'alpha'"):
        cursor({"alpha": [1]}, {"alpha": 1}).weights = {"alpa": 1}
    with pytest.raises(DataError, match="all weights are 0"):
        cursor({"a": [1]}, {"a": 0})
    with pytest.raises(DataError, match="no rows"):
        cursor({"a": []}, {"a": 1})
    state = cursor({"a": [1]}, {"a": 1}).state()
    changed = Cursor([Rows("a", [Row("x", "a", [1])], "other")], {"a": 1}, seed=0, batch_tokens=1)
    with pytest.raises(CheckpointError, match="not those that the run began with"):
        changed.restore(state)
    with pytest.raises(CheckpointError, match="another seed"):
        cursor({"a": [1]}, {"a": 1}, seed=1).restore(state)
    with pytest.raises(CheckpointError, match="sources"):
        cursor({"b": [1]}, {"b": 1}).restore(state)


@given(
    sizes=st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(1, 9), min_size=1, max_size=8), min_size=1),
    batch_tokens=st.integers(1, 200),
    epochs=st.floats(0.1, 4),
)
def test_epochs_end_exactly_and_no_batch_holds_a_row_twice(sizes, batch_tokens, epochs):
    rows = sum(len(s) for s in sizes.values())
    c = cursor(sizes, natural_shares({n: sum(s) for n, s in sizes.items()}), batch_tokens=batch_tokens, epochs=epochs)
    given_rows = 0
    while not c.exhausted:
        ids = [row.id for row, _ in c.next_batch()]
        assert len(set(ids)) == len(ids)
        given_rows += len(ids)
    assert given_rows == c.read == math.ceil(epochs * rows - 1e-9)


def test_replayed_rows_may_repeat_and_are_no_part_of_an_epoch():
    c = cursor({"new": [1] * 30, "old": [1] * 2}, {"new": 0.5, "old": 0.5}, batch_tokens=20, epochs=1, replayed=["old"])
    batches = []
    while not c.exhausted:
        batches.append([row.source for row, _ in c.next_batch()])
    assert [b.count("new") for b in batches] == [10, 10, 10] and all(len(b) >= 19 for b in batches)


def test_epochs_are_passes_over_own_tokens():
    assert epochs_of(300, 100, 0.0) == 3 and epochs_of(200, 100, 0.5) == 1
    assert steps_per_epoch(6, 200, 100, 0.5) == pytest.approx(6) and steps_per_epoch(0, 0, 100, 0.0) == 0


@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), min_size=1, max_size=3), st.randoms())
def test_sizes_are_those_of_the_rows_whatever_holds_them(parts, draw):
    rows = [[Row(f"{k}:{i}", "s", [1] * n, [1.0] * n) for i, n in enumerate(part)] for k, part in enumerate(parts)]
    joined = dataset._Joined(rows)
    flat = [row for part in rows for row in part]
    places = draw.sample(range(len(flat)), draw.randint(1, len(flat)))
    view = selecting._View(joined, places, None)
    assert list(sizes(joined)) == [r.size for r in flat]
    assert list(sizes(view)) == [flat[i].size for i in places] == [r.size for r in view]


@pytest.mark.parametrize("methods", [["full"], ["lora", "masked-thought"]])
def test_where_the_data_lie_does_not_change_what_is_learnt(tmp_path, methods):
    losses = []
    for place in ("here", "there/and/deeper"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        small.write_inputs(folder, train=20, test=2)
        tree = {"model": str(folder / "base"), "task": "text-generation", "methods": methods}
        tree |= {"data": {"train": str(folder / "train.jsonl")}, "budget": {"steps": 6}}
        tree |= {"train": {"batch_tokens": 60, "precision": "float32", "threads": 1, "learning_rate": 0.01}}
        (folder / "r.yaml").write_text(json.dumps(tree))
        run(Recipe.load(folder / "r.yaml"), folder / "out", quiet=True)
        metrics = map(json.loads, (folder / "out" / "metrics.jsonl").read_text().splitlines())
        losses.append([m["loss"] for m in metrics if "loss" in m])
    assert len(losses[0]) == 6 and losses[0] == losses[1]
    assert permutation(50, 0, "a/x.jsonl", 0) != permutation(50, 0, "b/x.jsonl", 0)  # of one recipe's folder
