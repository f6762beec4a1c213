"""How two families thin a change out: breadcrumbs keep the middle of the magnitudes, DELLA drops small ones more
often.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from tunewright.errors import MethodError
from tunewright.weights.merge._task_vectors import keep_by_rank, middle, middle_of_rows, rescaled


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
