"""Multi-SLERP: several models' tensors averaged on a sphere (Goddard's multislerp of mergekit; papers: multi-slerp).

Each tensor is one vector x_i (with a base: its change from the base). On the unit sphere, u_i = x_i / (||x_i|| + eps)
and m = the direction of sum w_i u_i; the parts of u_i that are orthogonal to m are averaged, and the sphere is followed
from m along that mean: u = cos(r) m + sin(r) v / r, r = ||v|| + eps, v = sum w_i (u_i - <u_i, m> m). The result is u
times the mean length sum w_i ||x_i|| (plus the base). Since m lies along sum w_i u_i itself, v is zero to rounding: the
result is the mean direction at the mean length. One model comes back; equal models come back to rounding.

Weights are divided by their sum with `normalize_weights`. Where the weighted sum of directions vanishes, two models are
averaged plainly and more are refused. Differs from mergekit in: sums in fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from tunewright.errors import MethodError
from tunewright.weights.merge._task_vectors import Each
from tunewright.weights.operator import Merge, PerModel

EPS = 1e-8


def multislerp(tensors: Sequence[Tensor], weights: Sequence[float], normalize: bool = True, eps: float = EPS) -> Tensor:
    """The mean on the sphere, fp32, of the tensors' shape. MethodError where weights or directions cancel out."""
    if len(tensors) == 1:
        return tensors[0].float()
    total = sum(weights)
    if normalize and abs(total) < eps:
        raise MethodError(
            f"the weights {list(weights)} sum to 0",
            where="multislerp.weight",
            remedy="write normalize_weights: false, or other weights",
        )
    shares = [w / total if normalize else w for w in weights]
    flat = [t.reshape(-1).float() for t in tensors]
    lengths = [x.norm() for x in flat]
    units = [x / (n + eps) for x, n in zip(flat, lengths, strict=True)]
    mean = torch.stack([w * u for w, u in zip(shares, units, strict=True)]).sum(0)
    size = mean.norm()
    if size < eps:
        if len(tensors) > 2 and any(bool(n > 0) for n in lengths):
            raise MethodError(
                "the weighted directions of the models cancel out",
                where="multislerp",
                remedy="take other weights, or `linear`",
            )
        return torch.stack([w * x for w, x in zip(shares, flat, strict=True)]).sum(0).reshape(tensors[0].shape)
    mean = mean / size
    tangent = torch.stack([w * (u - (u @ mean) * mean) for w, u in zip(shares, units, strict=True)]).sum(0)
    angle = tangent.norm() + eps
    point = mean * torch.cos(angle) + tangent * (torch.sin(angle) / angle)
    return (point * sum(w * n for w, n in zip(shares, lengths, strict=True))).reshape(tensors[0].shape)


class MultiSlerp(Merge):
    """Average models on a sphere."""

    weight: PerModel[float] = Field(1.0, description="w_i, a model's weight", examples=[0.5])
    normalize_weights: bool = Field(True, description="divide the weights by their sum")
    eps: PositiveFloat = Field(EPS, description="length that is added to divisors and counts as none", examples=[0.5])

    base: ClassVar[Literal["needed", "none", "optional"]] = "optional"
    symmetric: ClassVar[bool] = True
    models: ClassVar[tuple[int, int | None]] = (1, None)
    papers: ClassVar[tuple[str, ...]] = ("multi-slerp",)

    def merge(self, base: Tensor | None, tensors: Sequence[Tensor], each: Each) -> Tensor:
        weights = [own["weight"] for own in each]
        if base is None:
            return multislerp(tensors, weights, self.normalize_weights, self.eps).to(tensors[0].dtype)
        origin = base.float()
        changes = [t.float() - origin for t in tensors]
        return (origin + multislerp(changes, weights, self.normalize_weights, self.eps)).to(tensors[0].dtype)
