"""merge: tensors of several models, one tensor back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tunewright.weights.operator import Merge


class Farthest(Merge):
    """Of each entry take the value farthest from zero, shrunk a little."""

    symmetric: ClassVar[bool] = True
    shrink: float = Field(1.0, gt=0, le=1, description="factor on the result", examples=[0.5])

    def merge(self, tensors: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack(list(tensors))
        return self.shrink * stacked.gather(0, stacked.abs().argmax(0, keepdim=True))[0]
