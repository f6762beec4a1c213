"""NuSLERP: two models interpolated along the arc between their directions (mergekit's nuslerp; papers: nuslerp).

With weights w_0 and w_1 and t = w_1 / (w_0 + w_1) (1/2 where they sum to 0): s = (sin((1 - t) Omega) a + sin(t Omega)
b) / sin Omega, Omega the angle between the directions of a and b; (1 - t) a + t b where they are parallel. With a base,
a and b are the models' changes from it, and s is added to it. That is what it is for: two tunings of one base point
nearly the same way, their changes do not.

`nuslerp_flatten`: a tensor is one vector; else each of its rows along the last axis (each output of a linear layer), or
with `nuslerp_row_wise` each along the first (each input). A vector shorter than 1e-7 counts as of length 1e-7. Differs
from slerp in: the place is given by weights, changes and rows may be turned, and no near-parallel pair is taken for a
parallel one. From mergekit in: nothing but rounding; angles come from fp64 sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tunewright.weights.merge._task_vectors import Each
from tunewright.weights.operator import Merge, PerModel

SHORTEST = 1e-7


def along_arcs(a: Tensor, b: Tensor, t: float) -> Tensor:
    """The place t on the arc from a to b, row by row along the last axis, fp32 [..., n]."""
    units = [x.double() / x.double().norm(dim=-1, keepdim=True).clamp_min(SHORTEST) for x in (a, b)]
    cos = (units[0] * units[1]).sum(-1, keepdim=True).clamp(-1, 1)
    parallel = cos.float().abs() == 1
    angle = torch.acos(torch.where(parallel, 0.0, cos))
    first, second = torch.sin((1 - t) * angle) / torch.sin(angle), torch.sin(t * angle) / torch.sin(angle)
    return torch.where(parallel, (1 - t) * a + t * b, (first * a + second * b).float())


class Nuslerp(Merge):
    """Interpolate two models, or their changes, along the arc between their directions."""

    weight: PerModel[float] = Field(1.0, description="w_i, a model's weight", examples=[0.5])
    nuslerp_row_wise: bool = Field(False, description="vectors lie along the first axis of a tensor, not the last")
    nuslerp_flatten: bool = Field(True, description="a whole tensor is one vector; off: each row is")

    papers: ClassVar[tuple[str, ...]] = ("nuslerp",)
    conformance: ClassVar[dict[str, object]] = {"nuslerp_flatten": False}
    base: ClassVar[Literal["needed", "none", "optional"]] = "optional"
    symmetric: ClassVar[bool] = True
    models: ClassVar[tuple[int, int | None]] = (2, 2)

    def merge(self, base: Tensor | None, tensors: Sequence[Tensor], each: Each) -> Tensor:
        first, second = each[0]["weight"], each[1]["weight"]
        t = 0.5 if abs(first + second) < 1e-6 else second / (first + second)
        a, b = (x if base is None else x - base for x in tensors)
        if self.nuslerp_flatten or a.ndim == 0:
            between = along_arcs(a.reshape(-1), b.reshape(-1), t).reshape(a.shape)
        elif self.nuslerp_row_wise:
            between = along_arcs(a.transpose(0, -1), b.transpose(0, -1), t).transpose(0, -1)
        else:
            between = along_arcs(a, b, t)
        return between if base is None else base + between
