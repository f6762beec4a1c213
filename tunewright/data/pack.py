"""The leak self-test of packing: rows side by side must give what each gives alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tunewright.contract.batch import Row
from tunewright.contract.task import Task
from tunewright.tasks._causal import evaluating

TOLERANCE = 1e-3
"""Largest difference of logits, relative to their spread, that is still rounding (fp32; bf16 needs about 5e-2)."""


def leak(model: nn.Module, task: Task, rows: Sequence[Row], *, packed: bool = True) -> float:
    """The largest difference between the logits of rows in one batch and of each alone, over the logits' std.

    Runs in eval mode without gradients, on the rows given (a few short ones will do: the cost is two forwards). Above
    `TOLERANCE` rows see each other, and must be padded instead.
    """
    device = next(model.parameters()).device
    rows = [r for r in rows if r.size > 1]
    if len(rows) < 2:
        raise ValueError("a leak between rows needs at least two rows of two tokens")
    with torch.no_grad(), evaluating(model):
        together = task.forward(model, task.collate(rows, packed).to(device)).logits.float()
        alone = torch.cat([task.forward(model, task.collate([r], False).to(device)).logits.float() for r in rows])
    return float((together - alone).abs().max() / alone.std())


def sample_rows(rows: Sequence[Row], *, count: int = 3, tokens: int = 256) -> list[Row]:
    """The shortest of the first rows, up to `tokens` in all: what the self-test runs on."""
    short = sorted(rows[: 16 * count], key=lambda r: r.size)
    out: list[Row] = []
    for row in short:
        if row.size > 1 and len(out) < count and (len(out) < 2 or sum(r.size for r in out) + row.size <= tokens):
            out.append(row)
    return out
