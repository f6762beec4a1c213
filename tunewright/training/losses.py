"""From a loss per item to one number: what is summed over a micro-batch, and by what a whole step is divided."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tunewright.contract.batch import Batch, Loss
from tunewright.contract.combining import Bound
from tunewright.errors import MethodError


def sum_weights(batches: Sequence[Batch], bound: Bound | None) -> Tensor:
    """Denominator of an objective over all micro-batches: token weights, or one per row."""
    if bound is not None and bound.method.couples == "row":
        return torch.tensor(float(sum(len(b.row_ids) for b in batches)))
    total = sum(float(b.weights.sum()) for b in batches)
    return torch.tensor(total if total > 0 else 1.0)


def weighted_sum(loss: Loss, batch: Batch, bound: Bound | None) -> Tensor:
    """Sum of value x weight of one micro-batch. MethodError when a loss has neither one value per token nor a row."""
    if loss.weight is not None:
        return (loss.value * loss.weight).sum()
    expected = len(batch.row_ids) if bound is not None and bound.method.couples == "row" else len(batch.labels)
    if loss.value.shape != (expected,):
        name = bound.name if bound else "task"
        raise MethodError(
            f"'{name}' gave a loss of shape {tuple(loss.value.shape)}; expected one value for each of {expected} items",
            remedy="return Loss(value [N]) or Loss(value, weight)",
        )
    if bound is not None and bound.method.couples == "row":
        return loss.value.sum()
    return (loss.value * batch.weights).sum()
