"""How two families thin a change out: breadcrumbs keep the middle of the magnitudes, DELLA drops small ones more
often.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from tunewright.errors import MethodError
from tunewright.weights.merge._task_vectors import RandomDrops, keep_by_rank, middle, middle_of_rows, rescaled
from tunewright.weights.operator import PerModel


def breadcrumbs(
    change: Tensor, density: float, gamma: float, over: Literal["tensor", "row"] = "tensor", rescale: bool = False
) -> Tensor:
    """A change with both tails masked, of its shape; scaled to its own sum of magnitudes with `rescale`."""
    if change.ndim == 0:
        return change
    kept = (middle_of_rows if over == "row" else middle)(change, density, gamma)
    return rescaled(kept, change) if rescale else kept


def magnitude_keep(change: Tensor, density: float, epsilon: float) -> Tensor:
    """Probabilities to stay of a change's entries. MethodError where density -+ epsilon leave 0..1."""
    if density - epsilon < 0 or density + epsilon > 1:
        raise MethodError(
            (
                f"density {density:g} with epsilon {epsilon:g} gives probabilities from {density - epsilon:g} to "
                f"{density + epsilon:g}"
            ),
            where="epsilon",
            remedy=f"write epsilon: {min(density, 1 - density):g} or less",
        )
    return keep_by_rank(change, density, epsilon)


class RankedDrops(RandomDrops):
    """A merge whose changes lose small entries the likelier."""

    epsilon: PerModel[float] = Field(
        0.15, ge=0, le=0.5, description="half the width of the probabilities to stay around the density", examples=[0.4]
    )

    def keep(self, change: Tensor, own: Mapping[str, Any]) -> Tensor:
        return magnitude_keep(change, own["density"], own["epsilon"])
