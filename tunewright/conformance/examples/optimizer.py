"""optimizer: make the optimizer of a parameter group."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from tunewright.contract.method import Method


class PlainSGD(Method):
    """Stochastic gradient descent."""

    momentum: float = Field(0.0, ge=0, lt=1, description="share of the last step that goes on", examples=[0.9])

    def optimizer(self, parameters: dict[str, nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(list(parameters.values()), lr=learning_rate, momentum=self.momentum)
