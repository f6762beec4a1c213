"""update: change the optimizer's proposed step."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from tunewright.contract.method import Method


class Cautious(Method):
    """Go a part of the way that the optimizer proposes."""

    share: float = Field(0.5, gt=0, le=1, description="of the way", examples=[0.25])

    def update(self, changes: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: self.share * c for n, c in changes.items()}
