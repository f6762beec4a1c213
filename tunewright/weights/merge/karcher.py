"""Karcher mean: the point of the sphere whose summed squared angles to the models are least (Wang et al. 2026,
arXiv:2603.04972; papers: karcher).

Each tensor is one vector. With u_i the models' directions and equal shares a = 1/n: from m = the direction of sum_i
u_i, repeat v = sum_i a theta_i / sin theta_i (u_i - cos theta_i m), theta_i the angle between u_i and m, and follow the
sphere from m along v: m <- cos |v| m + sin |v| v / |v|, until |v| < `tol` or after `max_iter` times. The result is m
times the mean length. Models shorter than `tol` have no direction and count for their length alone; all short: 0.

Of two models it is the middle of their arc at the mean of their lengths. Where directions cancel, the first model's is
the start, so that order matters there alone. One model comes back. Differs from the paper in: nothing that was found;
its weights are equal, as in mergekit. From mergekit in: sums in fp64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from tunewright.weights.operator import Merge


def karcher(tensors: Sequence[Tensor], max_iter: int, tol: float) -> Tensor:
    """The mean on the sphere at the mean length, fp32, of the tensors' shape."""
    flat = [t.reshape(-1).double() for t in tensors]
    lengths = [float(x.norm()) for x in flat]
    units = [x / n for x, n in zip(flat, lengths, strict=True) if n > tol]
    if not units:
        return torch.zeros_like(tensors[0])
    mean = torch.stack(units).mean(0)
    mean = mean / mean.norm() if mean.norm() >= tol else units[0]
    for _ in range(max_iter):
        step = torch.stack([_towards(mean, u, tol) for u in units]).mean(0)
        size = step.norm()
        if size < tol:
            break
        mean = torch.cos(size) * mean + torch.sin(size) * step / size
        mean = mean / mean.norm()
    return (sum(lengths) / len(lengths) * mean).float().reshape(tensors[0].shape)


def _towards(mean: Tensor, unit: Tensor, tol: float) -> Tensor:
    """The tangent at `mean` that leads to `unit`, as long as the angle between them; 0 for an angle under `tol`."""
    cos = (mean @ unit).clamp(-1, 1)
    angle = torch.acos(cos)
    return torch.zeros_like(mean) if angle < tol else angle / torch.sin(angle) * (unit - cos * mean)


class Karcher(Merge):
    """Average models on a sphere by the mean of least squared angles."""

    max_iter: PositiveInt = Field(10, description="steps at most", examples=[1])
    tol: PositiveFloat = Field(
        1e-5, description="step in radians, and length of a tensor, that count as 0", examples=[1]
    )

    papers: ClassVar[tuple[str, ...]] = ("karcher",)
    base: ClassVar[Literal["needed", "none", "optional"]] = "none"
    symmetric: ClassVar[bool] = True

    def merge(self, tensors: Sequence[Tensor]) -> Tensor:
        return tensors[0].clone() if len(tensors) == 1 else karcher(tensors, self.max_iter, self.tol)
