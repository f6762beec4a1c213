"""penalty: what is held back, once per optimizer step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from tunewright.contract.method import Method
from tunewright.training.inner import TrainedWeight


class StayNear(Method):
    """Hold every trained weight near where the stage began: strength times the sum of squared changes."""

    strength: float = Field(1.0, gt=0, description="how strongly", examples=[100.0])

    def penalty(self, weights: Mapping[str, TrainedWeight]) -> Tensor:
        changes = [t.change() for t in weights.values() if t.foldable]
        return self.strength * sum((c.pow(2).sum() for c in changes), torch.zeros(()))
