"""DELLA without the election of signs (mergekit's della_linear; Deep et al. 2024, arXiv:2406.11617; papers:
della-linear).

Changes are dropped by the rank of their magnitude and scaled as in `della`, then all are added:
theta = theta_0 + lambda sum_t w_t of them. epsilon 0 is `dare-linear`, with the same random numbers.
"""

from __future__ import annotations

from typing import ClassVar

from tunewright.weights.merge._thinning import RankedDrops


class DellaLinear(RankedDrops):
    """Drop small entries of task vectors the likelier, scale up the rest, and add them to the base."""

    papers: ClassVar[tuple[str, ...]] = ("della-linear",)
