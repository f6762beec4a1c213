"""NearSwap: move to a second model where it is near (Alchemonaut's nearswap of QuartetAnemoi-70B; papers: nearswap).

theta = base + s (theta_1 - base), elementwise, s = min(1, t / |theta_1 - base|): entries closer than t take the second
model's value, farther ones move by t towards it. Differences under 1e-6 count as 1e-6. t is in units of the weights.

Differs from mergekit in: t may be left out, and is then the 1e-4 that the model was made with; the sum is base + s
(theta_1 - base), which rounds less than s theta_1 + (1 - s) base.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat
from torch import Tensor

from tunewright.weights.operator import Merge


def nearswap(base: Tensor, tensor: Tensor, t: float) -> Tensor:
    """base, moved towards `tensor` by at most t in every entry."""
    change = tensor - base
    return base + change * (t / change.abs().clamp_min(1e-6)).clamp(0, 1)


class Nearswap(Merge):
    """Move to a second model where it is near."""

    t: NonNegativeFloat = Field(1e-4, description="how far an entry moves at most", examples=[0.1])

    papers: ClassVar[tuple[str, ...]] = ("nearswap",)
    base: ClassVar[Literal["needed", "none", "optional"]] = "needed"
    models: ClassVar[tuple[int, int | None]] = (1, 1)

    def merge(self, base: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        return nearswap(base, tensors[0], self.t)
