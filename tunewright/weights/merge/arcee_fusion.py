"""Arcee Fusion: take over from a tuned model only the entries that matter most (mergekit's arcee_fusion; papers:
arcee-fusion).

An entry's importance is |theta - theta_0| times its row's KL(softmax theta || softmax theta_0), rows along the last
axis, 1e-8 added to each probability. With the quartiles q_1, q_2, q_3 of a tensor's importances, entries of at least
q_2 + 1.5 (q_3 - q_1) take the model's values, the others stay the base's. The quartile at p of n sorted values is the
one at place int(p (n - 1)).

Differs from mergekit in: quartiles of tensors with more than a million entries are exact, where it draws a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from tunewright.weights.operator import Merge

EPS = 1e-8


def importance(tuned: Tensor, base: Tensor) -> Tensor:
    """How much each entry matters, of the tensors' shape."""
    p, q = (torch.softmax(x, -1) + EPS for x in (tuned, base))
    return (tuned - base).abs() * (p * torch.log(p / q)).sum(-1, keepdim=True)


def threshold(scores: Tensor) -> float:
    """q_2 + 1.5 (q_3 - q_1) of all scores, found without a whole sort."""
    flat = scores.reshape(-1).numpy()
    places = [int(p * (flat.size - 1)) for p in (0.25, 0.5, 0.75)]
    low, middle, high = (np.partition(flat, places)[i] for i in places)
    return float(middle + np.float32(1.5) * (high - low))


class ArceeFusion(Merge):
    """Take over the entries of one model that differ most from the base's."""

    papers: ClassVar[tuple[str, ...]] = ("arcee-fusion",)
    base: ClassVar[Literal["needed", "none", "optional"]] = "needed"
    models: ClassVar[tuple[int, int | None]] = (1, 1)

    def merge(self, base: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        if not base.numel():
            return base.clone()
        scores = importance(tensors[0], base).cpu()
        return torch.where((scores >= threshold(scores)).to(base.device), tensors[0], base)
