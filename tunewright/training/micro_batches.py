"""From a step's rows to micro-batches: methods on `row` change the rows, methods on `batch` what is laid of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from tunewright.contract.batch import Batch, Row
from tunewright.contract.combining import Bound
from tunewright.contract.method import row_rng
from tunewright.errors import MethodError
from tunewright.training.rollouts import carried

Rows = Sequence[tuple[Row, int]]
"""Rows with the epoch in which each is drawn."""


def micro_batches(loop: Any, rows: Rows) -> list[Batch]:
    """Rows of one step as collated micro-batches of at most `micro_tokens` tokens, on the stage's device."""
    groups: list[list[tuple[Row, int]]] = [[]]
    size = 0
    for row, epoch in changed(loop, rows):
        if groups[-1] and loop.micro_tokens and size + row.size > loop.micro_tokens:
            groups.append([])
            size = 0
        groups[-1].append((row, epoch))
        size += row.size
    return [_collated(loop, g) for g in groups]


def changed(loop: Any, rows: Rows) -> Rows:
    """The rows as the stage's methods on `row` make them. MethodError where a method gives something else."""
    for b in loop.methods.on("row"):
        rows = [(_changed(loop, b, row, epoch), epoch) for row, epoch in rows]
    return rows


def _changed(loop: Any, bound: Bound, row: Row, epoch: int) -> Row:
    rng = row_rng(loop.spec.seed, bound.name, epoch, row.id)
    made = loop.methods.call(bound, "row", row=row, step=loop.step_number, plan=loop.plan, row_rng=rng)
    if made is None:
        return row
    if not isinstance(made, Row) or made.id != row.id or len(made.input_ids) != len(made.weights):
        told = type(made).__name__ if not isinstance(made, Row) else "another id, or weights that are not its tokens'"
        raise MethodError(
            f"'{bound.name}' gave {told} for a row",
            where=row.id,
            remedy="return row.replace(input_ids=..., weights=...), one weight a token, or None to leave it as it is",
        )
    return made


def _collated(loop: Any, group: Rows) -> Batch:
    batch: Batch = loop.stage.task.collate(
        [r for r, _ in group], loop.stage.packed, epochs=[e for _, e in group], seed=loop.spec.seed
    )
    if loop.rollouts:
        batch = carried(batch, [r for r, _ in group])
    for b in loop.methods.on("batch"):

        def draw(i: int, name: str = b.name, batch: Batch = batch) -> random.Random:
            return row_rng(loop.spec.seed, name, batch.epochs[i], batch.row_ids[i])

        batch = loop.methods.call(b, "batch", batch=batch, step=loop.step_number, plan=loop.plan, row_rng=draw) or batch
    return batch.to(loop.stage.device)
