"""DARE with TIES: entries dropped at random, then signs elected (mergekit's dare_ties; Yu et al. 2023,
arXiv:2311.03099; papers: dare-ties).

Changes are dropped and scaled as in `dare-linear`; then only entries with the elected sign (as in `ties`: of the
weighted sum, plus where it is 0) are added: theta = theta_0 + lambda sum_t w_t m_t of them. The paper's own
combination; `normalize` turns the sum into a mean of what agrees.

Differs from mergekit in: how `rescale` scales, and the random numbers (see `dare-linear`).
"""

from __future__ import annotations

from typing import ClassVar

from tunewright.weights.merge._task_vectors import RandomDrops


class DareTies(RandomDrops):
    """Drop entries of task vectors at random, elect signs, and add what agrees."""

    election: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("dare-ties",)
