"""DELLA without the election of signs (mergekit's della_linear; Deep et al. 2024, arXiv:2406.11617; papers:
della-linear).

Changes are dropped by the rank of their magnitude and scaled as in `della`, then all are added:
theta = theta_0 + lambda sum_t w_t of them. epsilon 0 is `dare-linear`, with the same random numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from tunewright.weights.merge._task_vectors import RandomDrops
from tunewright.weights.merge._thinning import magnitude_keep


class DellaLinear(RandomDrops):
    """Drop small entries of task vectors the likelier, scale up the rest, and add them to the base."""

    epsilon: float = Field(
        0.15, ge=0, le=0.5, description="half the width of the probabilities to stay around the density", examples=[0.4]
    )

    per_model: ClassVar[tuple[str, ...]] = ("weight", "density", "epsilon")
    papers: ClassVar[tuple[str, ...]] = ("della-linear",)

    def keep(self, change: Tensor, own: Mapping[str, Any]) -> Tensor:
        return magnitude_keep(change, own["density"], own["epsilon"])
