"""Answers among some classes alone: of rows whose task is known when they are asked, the classes of that task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tunewright.contract.batch import Row

AMONG = "among"
"""The field of a row that holds the ids of the classes that its answer is one of."""


def among(rows: Sequence[Row], logits: Tensor) -> Tensor:
    """Logits [R, V] without the classes that a row's answer cannot be: -inf there, so that the rest share all
    likelihood. Rows that name no classes keep all of theirs.
    """
    if not any(AMONG in row.fields for row in rows):
        return logits
    barred = torch.zeros_like(logits, dtype=torch.bool)
    for k, row in enumerate(rows):
        if AMONG in row.fields:
            barred[k] = True
            barred[k, list(row.fields[AMONG])] = False
    return logits.masked_fill(barred, -torch.inf)
