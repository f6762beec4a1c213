"""rates: give factors of the learning rate by parameter."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor

from tunewright.contract.method import Method


class SlowVectors(Method):
    """Norms, biases and gates step less far than matrices."""

    factor: float = Field(0.1, ge=0, description="factor of the rate of what is no matrix", examples=[0.5])

    def rates(self, parameters: Mapping[str, Tensor]) -> dict[str, float]:
        return {n: self.factor for n, p in parameters.items() if p.dim() < 2}
