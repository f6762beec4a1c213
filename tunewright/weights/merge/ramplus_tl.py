"""RAM+ per tensor: what only one agent changed is kept and amplified (Reinforced Agent Merging, Yuan et al. 2026,
arXiv:2601.13572; papers: ram).

As `ram`, and a change that one model alone made is multiplied by 1 + r min(alpha, rho_t): rho_t counts the entries that
model t changed together with others over those that it changed alone, so that a model which loses much to averages gets
it back where it is alone. r = 0 is `ram`.

Differs from the paper in: rho is taken tensor by tensor (mergekit's tensor-local form), not over the whole model.
From mergekit in: nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat
from torch import Tensor

from tunewright.weights.merge._changed import changed
from tunewright.weights.operator import Merge


def amplified(changes: Tensor, count: Tensor, r: float, alpha: float) -> Tensor:
    """1 + r min(alpha, rho_t) [models], from what `changed` gives; a model that was never alone has rho = alpha."""
    moved = changes != 0
    shared, alone = ((moved & where).reshape(len(changes), -1).sum(1) for where in (count > 1, count == 1))
    return 1 + r * (shared / alone.clamp_min(1e-5)).clamp(0, alpha)


class RamplusTl(Merge):
    """Average changes over the models that made them, and amplify those that one model made alone."""

    r: NonNegativeFloat = Field(0.1, description="strength of the amplification", examples=[0.5])
    alpha: NonNegativeFloat = Field(0.2, description="rho at most", examples=[0.05])
    epsilon: NonNegativeFloat = Field(1e-5, description="change of an entry that counts as none", examples=[0.5])

    papers: ClassVar[tuple[str, ...]] = ("ram",)
    conformance: ClassVar[dict[str, object]] = {"epsilon": 1.0}
    base: ClassVar[Literal["needed", "none", "optional"]] = "needed"
    symmetric: ClassVar[bool] = True

    def merge(self, base: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        changes, count = changed(base, tensors, self.epsilon)
        factors = amplified(changes, count, self.r, self.alpha).reshape(-1, *(1 for _ in base.shape))
        alone = (changes * factors).sum(0)
        return base + (changes.sum(0) / count.clamp_min(1)).where(count != 1, alone)
