"""gradient: change gradients before clipping."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from tunewright.contract.method import Method


class Signs(Method):
    """Push gradients towards their sign."""

    share: float = Field(0.5, gt=0, le=1, description="share of the sign", examples=[1.0])

    def gradient(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: (1 - self.share) * g + self.share * g.sign() for n, g in gradients.items()}
