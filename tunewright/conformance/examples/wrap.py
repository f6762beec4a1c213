"""wrap: put a module of one's own around the model."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from tunewright.contract.method import Method, Setup, State


class Scaled(nn.Module):
    """A model whose logits are multiplied by exp(s)."""

    def __init__(self, model: Any, log_scale: nn.Parameter):
        super().__init__()
        self.model, self.log_scale, self.config = model, log_scale, model.config

    def forward(self, **inputs: Any) -> Any:
        out = self.model(**inputs)
        out.logits = out.logits * self.log_scale.exp()
        return out


class LearnedTemperature(Method):
    """Learn one temperature of the logits; the model itself stays as it is."""

    folds: ClassVar[bool] = False

    def setup(self, run: Setup) -> State:
        state = State()
        state.log_scale = nn.Parameter(torch.zeros(()))
        return state

    def wrap(self, model: nn.Module, state: State) -> nn.Module:
        return Scaled(model, state.log_scale)  # type: ignore[arg-type]
