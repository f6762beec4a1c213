"""Passthrough: a model's tensors as they are, or scaled (mergekit's passthrough; papers: passthrough).

theta = scale theta_1, of one model: what files with several slices stack layers with. With a scale of 0 on what a
block's sublayers write out (`[{filter: o_proj, value: 0}, {filter: down_proj, value: 0}, {value: 1}]`) a repeated block
adds nothing until it is trained. A scale of 1 gives back the model's bits.

Differs from mergekit in: nothing but rounding where a scale is not 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from tunewright.weights.merge._task_vectors import Each
from tunewright.weights.operator import Merge, PerModel


class Passthrough(Merge):
    """Take one model's tensors, scaled."""

    scale: PerModel[float] = Field(1.0, description="factor of the tensor", examples=[0.5])

    papers: ClassVar[tuple[str, ...]] = ("passthrough",)
    base: ClassVar[Literal["needed", "none", "optional"]] = "none"
    models: ClassVar[tuple[int, int | None]] = (1, 1)

    def merge(self, tensors: Sequence[Tensor], each: Each) -> Tensor:
        return tensors[0] * each[0]["scale"]
