"""average: the weights that are kept."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tunewright.contract.method import Method


class RunningMean(Method):
    """Keep an exponential moving average of what trains."""

    momentum: float = Field(0.5, ge=0, lt=1, description="share of itself that it keeps in a step", examples=[0.9])

    def average(self, averaged: dict[str, Tensor], parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: torch.lerp(parameters[n].detach(), a, self.momentum) for n, a in averaged.items()}
