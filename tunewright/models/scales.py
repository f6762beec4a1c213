"""A factor for each of a linear layer's outputs, or of its inputs: 1 + v, v [out] or [in] from zero. Both fold."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tunewright.models.delta_forms import Delta
from tunewright.models.sites import Site


class _Scale(Delta):
    """v is what trains, so that weight decay draws factors to 1."""

    def __init__(self, values: Tensor):
        super().__init__()
        self.values = nn.Parameter(values)

    def factors(self, strength: float) -> Tensor:
        return 1.0 + self.values * strength

    def settings(self) -> dict[str, Any]:
        return {"size": self.values.numel()}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> _Scale:
        return cls(torch.zeros(settings["size"]))


class OutputScale(_Scale):
    """y <- (1 + v) y, the layer's bias and what earlier deltas added included."""

    form = "output-scale"
    compiles = True

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (y * self.factors(self.strength)).to(y.dtype)

    def folded(self, weight: Tensor, bias: Tensor | None, strength: float = 1.0) -> tuple[Tensor, Tensor | None]:
        factors = self.factors(strength).to(weight.dtype)
        return weight * factors[:, None], None if bias is None else bias * factors


class InputScale(_Scale):
    """x <- (1 + v) x, for the layer and all other deltas on it."""

    form = "input-scale"
    compiles = True
    edits_input: ClassVar[bool] = True

    def before(self, x: Tensor) -> Tensor:
        return (x * self.factors(self.strength)).to(x.dtype)

    def folded(self, weight: Tensor, bias: Tensor | None, strength: float = 1.0) -> tuple[Tensor, Tensor | None]:
        return weight * self.factors(strength).to(weight.dtype), bias
