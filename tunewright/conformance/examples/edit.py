"""edit: a change, tensor by tensor, made into another."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from tunewright.contract.method import Method


class Trimmed(Method):
    """Drop changes smaller than a share of the largest."""

    share: float = Field(0.2, gt=0, lt=1, description="of the largest absolute change", examples=[0.5])

    def edit(self, change: Tensor) -> Tensor:
        return change * (change.abs() >= self.share * change.abs().max())
