"""SCE: select what differs between models, weigh models by how far they moved, erase minority signs (FuseChat, Wan et
al. 2024, arXiv:2408.07990; papers: sce).

For one tensor and changes tau_t = theta_t - theta_0:
- select: of the entries whose variance over the models is not 0, the share `select_topk` with the largest variance
  stays in every change; the rest becomes 0. At 1 nothing is left out;
- calculate: w_t = mean square of tau_t, divided by the sum over the models;
- erase: an entry counts only where its sign is that of sum_t tau_t (plus where that sum is 0).
theta = theta_0 + sum_t w_t m_t tau_t / sum_t w_t m_t, theta_0 where no model is left.

The weights need no data. Where the mean squares sum to less than `least`, all models weigh alike: mergekit's 1e-6,
which many tunings of real models stay under; 0 is the paper's formula. Differs from the paper in: `select_topk` is 1
unless it is given, as in mergekit (its own share was not found stated for language models). From mergekit in: of equal
variances at the threshold it keeps some; it divides by at least 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from tunewright.weights.operator import Merge, MergekitDefault


def salient(changes: Tensor, share: float) -> Tensor:
    """Whether an entry stays, bool of a change's shape, from changes [models, ...]."""
    if share >= 1:
        return torch.ones_like(changes[0], dtype=torch.bool)
    variance = changes.var(0, unbiased=False)
    kept = int(torch.count_nonzero(variance) * share)  # a product in float32, as mergekit forms it
    if kept == 0:
        return torch.zeros_like(variance, dtype=torch.bool)
    return variance >= variance.reshape(-1).kthvalue(variance.numel() - kept + 1).values


def model_weights(changes: Tensor, least: float) -> Tensor:
    """w [models], which sum to 1, from changes [models, ...]."""
    squares = changes.square().reshape(len(changes), -1).mean(1)
    total = squares.sum()
    return squares / total if total > 0 and total >= least else torch.ones_like(squares) / len(squares)


def sce(changes: Tensor, share: float, least: float) -> Tensor:
    """The merged change, of one change's shape, from changes [models, ...]."""
    changes = changes * salient(changes, share)
    weights = model_weights(changes, least).reshape(-1, *(1 for _ in changes.shape[1:]))
    elected = torch.where(changes.sum(0) >= 0, 1.0, -1.0)
    counted = weights * (changes.sign() == elected)
    total = counted.sum(0)
    return (changes * counted).sum(0) / torch.where(total > 0, total, 1.0)


class Sce(Merge):
    """Select entries that differ between models, weigh models by how far they moved, and erase minority signs."""

    select_topk: float = Field(1.0, ge=0, le=1, description="share of the entries that stays", examples=[0.5])
    least: Annotated[NonNegativeFloat, MergekitDefault(1e-6)] = Field(
        0.0, description="sum of the models' mean squared changes under which all weigh alike", examples=[1e3]
    )

    papers: ClassVar[tuple[str, ...]] = ("sce",)
    base: ClassVar[Literal["needed", "none", "optional"]] = "needed"
    symmetric: ClassVar[bool] = True

    def merge(self, base: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        return base + sce(torch.stack([t - base for t in tensors]), self.select_topk, self.least)
