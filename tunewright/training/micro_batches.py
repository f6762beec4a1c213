"""From a step's rows to micro-batches: methods on `row` change the rows, methods on `batch` what is laid of them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import torch

from tunewright.contract.batch import Batch, Row
from tunewright.contract.combining import Bound
from tunewright.contract.method import row_rng
from tunewright.errors import MethodError
from tunewright.machine.group import present
from tunewright.training.rollouts import carried

Rows = Sequence[tuple[Row, int]]
"""Rows with the epoch in which each is drawn."""


PADDING = {"cpu": 256}
"""Padding that costs about what one more micro-batch does, tokens, by kind of device."""
PADDING_ELSEWHERE = 4096
"""The same of devices on which many tokens take little longer than few."""


def micro_batches(loop: Any, rows: Rows, *, apart: bool = False) -> list[Batch]:
    """Rows of one step as collated micro-batches of at most `micro_tokens` tokens, on the stage's device: in their
    order, or `apart` by length, where rows are padded to the longest beside them and that saves more than it costs.
    """
    limit = loop.micro_tokens
    rows = changed(loop, rows)
    if (group := present()).many:  # one for each process, where there are as many rows
        share = math.ceil(sum(row.size for row, _ in rows) / group.size)
        limit = min(limit or share, share)
        apart = False
    worth = PADDING.get(torch.device(loop.stage.device).type, PADDING_ELSEWHERE)
    alike = by_length(rows, worth) if apart and not loop.stage.packed else [list(rows)]
    return [_collated(loop, g) for near in alike for g in _limited(near, limit)]


def _limited(rows: Rows, limit: int | None) -> list[list[tuple[Row, int]]]:
    """The rows in their order, in groups of at most `limit` tokens."""
    groups: list[list[tuple[Row, int]]] = [[]]
    size = 0
    for row, epoch in rows:
        if groups[-1] and limit and size + row.size > limit:
            groups.append([])
            size = 0
        groups[-1].append((row, epoch))
        size += row.size
    return groups


def by_length(rows: Rows, worth: int) -> list[list[tuple[Row, int]]]:
    """Groups of rows of about one length, short ones first, each in the rows' order; two groups are one where that pads
    no more than `worth` tokens.
    """
    near: dict[int, list[int]] = {}
    for i, (row, _) in enumerate(rows):
        near.setdefault(math.ceil(2 * math.log2(max(1, row.size))), []).append(i)
    groups = [near[k] for k in sorted(near)]
    while len(groups) > 1:
        tops = [max(rows[i][0].size for i in g) for g in groups]
        more = [len(g) * (tops[k + 1] - tops[k]) for k, g in enumerate(groups[:-1])]
        k = min(range(len(more)), key=more.__getitem__)
        if more[k] > worth:
            break
        groups[k : k + 2] = [groups[k] + groups[k + 1]]
    return [[rows[i] for i in sorted(g)] for g in groups]


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
