"""Gradients of single records by an adapter, several records at once: each row of a batch is given an adapter of its
own, with the same numbers, so that one pass backward leaves each row's gradient apart.

What a selector remembers of them also depends on this file: `CODE` belongs into its `how` (`Reader.remembered`).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.data.select._gradients import gradient
from tunewright.models.delta_forms import Delta, LowRank
from tunewright.models.sites import Site

CODE = inspect.getsource(sys.modules[__name__])
NUMBERS = 1 << 25
"""Gradients of a batch, at most: they are held three times over (the copies, theirs, and in a row), in 4 bytes each."""

SHORT = 160
"""Tokens of a row, at most, that goes into a batch: many at once are 1.1 to 2.5 times as fast at 80 tokens, 2 to 5.5
times at 20, and 0.85 to 1.1 times at 320 (`python -m benchmarks.row_gradients`).
"""


class Mixed(Exception):
    """A layer's input does not lie in the batch's rows."""


class ByRow(Delta):
    """s B_i A_i in row i of inputs [R, L, in]: copies [R, r, in] and [R, out, r] of one low-rank change."""

    form = "low-rank-by-row"
    foldable = False

    def __init__(self, of: LowRank, rows: int):
        super().__init__()
        self.A, self.B = (t.detach().expand(rows, -1, -1).clone().requires_grad_() for t in of.pair())
        self.scale = of.scale * of.strength

    @property
    def entries(self) -> int:
        return self.A[0].numel() + self.B[0].numel()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if x.dim() != 3 or len(x) != len(self.A):
            raise Mixed
        inner = torch.bmm(x.to(self.A.dtype), self.A.transpose(1, 2))
        return y + torch.bmm(inner, self.B.transpose(1, 2)).to(y.dtype) * self.scale


def gradients(
    reader: Reader, name: str, sites: Sequence[Site], records: Sequence[Record]
) -> Iterator[tuple[int, Tensor]]:
    """(its place, [P] gradient of its mean loss) of each record, in any order, by the parameters of the low-rank
    changes called `name` on these sites: A, then B, of each. MethodError names a record whose gradient is not finite.
    """
    parameters = [p for stack in _stacks(sites) for p in (stack[name].lora_A, stack[name].lora_B)]

    def alone(i: int) -> Tensor:
        return gradient(reader.loss(records[i]), parameters, records[i].where)

    reader.refuse_a_new_head()
    rows = [reader.rows_of(r) for r in records]
    sizes = {i: some[0].size for i, some in enumerate(rows) if len(some) == 1 and some[0].size <= SHORT}
    sizes = {} if reader.task.reads_files else sizes
    apart, checked = [i for i in range(len(records)) if i not in sizes], False
    most = max(1, NUMBERS // sum(p.numel() for p in parameters))
    for some in _batches(sizes, reader.batch_tokens, most):
        own = None if checked else alone(some[0])  # first: a task may try a model out on its first batch
        try:
            found = _together(reader, name, sites, [records[i] for i in some])
        except Mixed:
            found = None
        if own is not None and (found is None or (found[0] - own).norm() > _rounding(reader) * own.norm()):
            apart = list(range(len(records)))
            break
        checked = True
        if found is None:
            apart += some
            continue
        yield from ((i, g if bool(g.isfinite().all()) else alone(i)) for i, g in zip(some, found, strict=True))
    yield from ((i, alone(i)) for i in apart)


def _rounding(reader: Reader) -> float:
    """How far a batch's gradient may be from the record's own, as a share of its length: more than rounding in the
    model's precision is a model whose rows are not told apart.
    """
    held = {p.dtype for p in reader.adapted.model.parameters() if p.is_floating_point()}
    return 2 * max(torch.finfo(dtype).eps for dtype in held) ** 0.5


def _batches(sizes: dict[int, int], tokens: int, most: int) -> Iterator[list[int]]:
    """Places of rows of like length, at most so many tokens with padding and rows at once, the longest first."""
    some: list[int] = []
    for i in sorted(sizes, key=lambda i: -sizes[i]):
        if some and (len(some) == most or (len(some) + 1) * sizes[some[0]] > tokens):
            yield some
            some = []
        some.append(i)
    if some:
        yield some


def _together(reader: Reader, name: str, sites: Sequence[Site], records: Sequence[Record]) -> Tensor:
    """[n, P] gradients of records of one row each. Mixed where a layer's input does not lie in rows."""
    rows = [reader.rows_of(r)[0] for r in records]
    reader.bring()
    with _split(name, sites, len(rows)) as copies, reader.adapted.evaluating():
        batch = reader.task.collate(rows, False, seed=reader.seed).to(reader.device)
        told = -reader.task.forward(reader.adapted.outer, batch).log_probs()
        at = batch.rows.to(told.device)
        count = torch.zeros(len(rows), device=told.device).index_add_(0, at, torch.ones_like(told, dtype=torch.float32))
        loss = (told / count[at]).sum()
        tensors = [t for c in copies for t in (c.A, c.B)]
        found = torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)
    reader.tokens += sum(row.size for row in rows)
    return torch.cat([g.flatten(1) for g in found], dim=1)


def _stacks(sites: Sequence[Site]) -> list[Any]:
    modules: list[Any] = [site.module for site in sites]
    return [module.delta for module in modules]


@contextmanager
def _split(name: str, sites: Sequence[Site], rows: int) -> Iterator[list[ByRow]]:
    """Copies of the changes called `name` for each row hang in their places inside."""
    stacks = _stacks(sites)
    whole = [stack[name] for stack in stacks]
    copies = [ByRow(d, rows) for d in whole]
    try:
        for stack, copy in zip(stacks, copies, strict=True):
            stack[name] = copy
        yield copies
    finally:
        for stack, delta in zip(stacks, whole, strict=True):
            stack[name] = delta
