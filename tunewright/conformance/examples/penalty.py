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
        return self.strength * torch.stack([t.change().pow(2).sum() for t in weights.values()]).sum()
