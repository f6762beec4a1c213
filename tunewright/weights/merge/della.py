"""DELLA: the smaller an entry of a change, the likelier it is dropped; then signs are elected (Deep et al. 2024,
arXiv:2406.11617; papers: della).

In every row of tau_t = theta_t - theta_0 entries are ranked by magnitude. Probabilities to stay run evenly by rank from
density - epsilon (smallest) to density + epsilon (largest), and what stays is divided by its own probability, so that
the expectation is tau_t. Then, as in `ties`: theta = theta_0 + lambda (sum of w_t tau_t with the elected sign) / (sum
of their w_t). epsilon 0 is DARE, with the same random numbers; density 1 drops nothing. Rows are all axes but the first
together; a vector is one row. The paper's drop rate is 1 - density, its window is 2 epsilon.

Differs from mergekit in: its `rescale` gives a masked tensor the sum of magnitudes it had; here each entry is divided
by its own probability, as in the paper and the authors' code. Probabilities may reach 0 and 1. Other random numbers.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tunewright.weights.merge._thinning import RankedDrops


class Della(RankedDrops):
    """Drop small entries of task vectors the likelier, elect signs, and average what agrees."""

    normalize: bool = Field(True, description="a mean of the values that agree; off: their sum")

    election: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("della",)
