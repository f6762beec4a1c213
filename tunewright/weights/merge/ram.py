"""RAM: average what several agents changed, and keep whole what only one changed (Reinforced Agent Merging, Yuan et al.
2026, arXiv:2601.13572; papers: ram).

A model changed an entry where |theta_t - theta_0| > `epsilon`. theta = theta_0 + tau / c, tau the sum of the changes of
the c models that changed the entry, theta_0 where none did: reinforcement learning moves few entries, and a mean over
all models would dilute what one of them alone learned. One model comes back but for what is within epsilon.

Differs from the paper in: nothing that was found. From mergekit in: nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat
from torch import Tensor

from tunewright.weights.merge._changed import changed
from tunewright.weights.operator import Merge


class Ram(Merge):
    """Average changes over the models that made them."""

    epsilon: NonNegativeFloat = Field(1e-5, description="change of an entry that counts as none", examples=[0.5])

    papers: ClassVar[tuple[str, ...]] = ("ram",)
    base: ClassVar[Literal["needed", "none", "optional"]] = "needed"
    symmetric: ClassVar[bool] = True

    def merge(self, base: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        changes, count = changed(base, tensors, self.epsilon)
        return base + changes.sum(0) / count.clamp_min(1)
