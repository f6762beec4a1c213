"""A step's rows by their lengths: little is padded, and nothing else changes."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.methods.driving import Run, text_rows
from tunewright.contract.batch import Loss, Row
from tunewright.contract.method import Method
from tunewright.training import micro_batches as splitting
from tunewright.training.micro_batches import by_length
from tunewright.training.train import Loop

SIZES = st.lists(st.integers(1, 600), min_size=1, max_size=40)


def rows_of(sizes: list[int], seed: int = 0) -> list[tuple[Row, int]]:
    rng = random.Random(seed)
    made = [[rng.randrange(8, 200) for _ in range(n)] for n in sizes]
    return [(Row(f"new:{i}", "new", ids, [1.0] * len(ids)), 0) for i, ids in enumerate(made)]


def padded(groups: list[list[tuple[Row, int]]]) -> int:
    return sum(len(g) * max(row.size for row, _ in g) for g in groups)


@given(SIZES, st.integers(0, 5000))
def test_rows_of_a_length_are_together_where_that_saves_more_than_it_costs(sizes: list[int], worth: int) -> None:
    rows = rows_of(sizes)
    groups = by_length(rows, worth)
    assert sorted(row.id for g in groups for row, _ in g) == sorted(row.id for row, _ in rows)
    for g in groups:
        assert [int(row.id[4:]) for row, _ in g] == sorted(int(row.id[4:]) for row, _ in g), "in the rows' order"
    for a, b in zip(groups, groups[1:], strict=False):
        longest, least = max(row.size for row, _ in a), min(row.size for row, _ in b)
        assert longest < least and len(a) * (max(row.size for row, _ in b) - longest) > worth
    assert padded(groups) + worth * (len(groups) - 1) <= padded([rows])


def test_one_long_row_stands_alone_and_rows_that_are_alike_stay_together() -> None:
    sizes = [20, 24, 500, 22, 25] + [21] * 20
    assert [[row.size for row, _ in g] for g in by_length(rows_of(sizes), 256)] == [
        [20, 24, 22, 25] + [21] * 20,
        [500],
    ]
    assert len(by_length(rows_of([100, 110, 105, 98]), 256)) == 1
    assert len(by_length(rows_of(sizes), 20_000)) == 1


class Whole(Method):
    """An objective of the whole step."""

    couples: ClassVar[str] = "batch"

    def objective(self, outputs: Any) -> Loss:
        return Loss(-outputs.log_probs())


def loop_of(methods: dict[str, Method], **options: Any) -> Loop:
    return Loop(Run(methods, sources={"new": text_rows()}, **options).stage)


def step(loop: Loop, rows: list[tuple[Row, int]]) -> tuple[dict[str, torch.Tensor], float, list[tuple[int, ...]]]:
    """(gradients, loss, shapes of the forwards) of a step."""
    shapes: list[tuple[int, ...]] = []
    forward = loop.forward

    def watched(batch: Any) -> Any:
        shapes.append(tuple(batch.inputs["input_ids"].shape))
        return forward(batch)

    loop.forward = watched  # type: ignore[method-assign]
    record = loop.gradients(rows)
    return {n: g.clone() for n, g in loop.trained.gradients().items()}, record["loss"], shapes


def test_a_step_of_unlike_lengths_is_read_by_length_with_the_gradients_of_the_whole(monkeypatch: Any) -> None:
    rows = rows_of([9, 8, 240, 7, 9, 8, 9, 6, 7, 8])
    found, loss, shapes = step(loop_of({}), rows)
    assert shapes == [(9, 9), (1, 240)]
    monkeypatch.setitem(splitting.PADDING, "cpu", 10**6)
    wanted, whole, one = step(loop_of({}), rows)
    assert one == [(10, 240)] and abs(loss - whole) < 1e-5
    for n in wanted:
        torch.testing.assert_close(found[n], wanted[n], atol=2e-6, rtol=2e-4)


def test_a_limit_holds_inside_and_an_objective_of_the_whole_step_is_not_split() -> None:
    rows = rows_of([9, 8, 240, 7, 9, 8, 9, 6, 7, 8])
    assert step(loop_of({}, micro_tokens=40), rows)[2] == [(4, 9), (5, 9), (1, 240)]
    assert step(loop_of({"whole": Whole()}), rows)[2] == [(10, 240)]
    packed = loop_of({})
    packed.stage.packed = True
    assert len(step(packed, rows)[2]) == 1
