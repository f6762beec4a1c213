"""Model Stock: how far to go from the base to the mean of a few tunings, from the angle between them (Jang et al. 2024,
arXiv:2403.19522; papers: model-stock).

Tunings of one base lie around a centre, which is what averaging very many would give. Let their directions from it, and
the base's, be orthogonal to each other: then the point nearest to the centre, among those on the plane through the base
and k tunings, is theta = r mean_t theta_t + (1 - r) theta_0 with r = k cos phi / (1 + (k - 1) cos phi) and phi the
angle between two changes. Equal tunings give r = 1, orthogonal changes the base. cos phi is the mean over pairs.

Per tensor; with `filter_wise` per row of it (along the last axis; a vector is one row). No data. Opposing changes give
a negative r, as the formula says; where 1 + (k - 1) cos phi is under 1e-6 in size the base is kept. Differs from the
paper in: it leaves open what cos phi is for k > 2. From mergekit in: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tunewright.weights.operator import Merge


def ratio(changes: Sequence[Tensor]) -> Tensor:
    """r [rows, 1] from k >= 2 changes [rows, n]."""
    lengths = [c.norm(dim=-1) for c in changes]
    cosines = [
        ((changes[i] * changes[j]).sum(-1) / (lengths[i] * lengths[j]).clamp_min(1e-6)).clamp(-1, 1)
        for i, j in combinations(range(len(changes)), 2)
    ]
    cos = torch.stack(cosines).mean(0).unsqueeze(-1)
    below = 1 + (len(changes) - 1) * cos
    flat = below.abs() < 1e-6
    return torch.where(flat, 0.0, len(changes) * cos / torch.where(flat, 1.0, below))


def model_stock(base: Tensor, tensors: Sequence[Tensor], filter_wise: bool = False) -> Tensor:
    """r mean + (1 - r) base, fp32, of the base's shape."""
    shape = (-1, base.shape[-1]) if filter_wise and base.ndim > 1 else (1, -1)
    origin = base.float().reshape(shape)
    models = [t.float().reshape(shape) for t in tensors]
    r = ratio([m - origin for m in models])
    mean = models[0]
    for m in models[1:]:
        mean = mean + m
    return (r * (mean / len(models)) + (1 - r) * origin).reshape(base.shape)


class ModelStock(Merge):
    """Go from the base towards the mean of tunings as far as the angle between them says."""

    filter_wise: bool = Field(False, description="one angle for each row of a tensor instead of one per tensor")

    base: ClassVar[Literal["needed", "none", "optional"]] = "needed"
    symmetric: ClassVar[bool] = True
    models: ClassVar[tuple[int, int | None]] = (2, None)
    papers: ClassVar[tuple[str, ...]] = ("model-stock",)

    def merge(self, base: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        return model_stock(base, tensors, self.filter_wise).to(tensors[0].dtype)
