"""DARE: entries of a change are dropped at random and the rest scaled up, then added (Yu et al. 2023, arXiv:2311.03099;
papers: dare-linear).

Every entry of tau_t = theta_t - theta_0 stays with probability `density` (1 - the paper's drop rate p) and is divided
by it, so that the expectation is tau_t: theta = theta_0 + lambda sum_t w_t of that. Masks are drawn from the run's seed
and the tensor's name, one model after the other: the same bits whatever the order of tensors, and other ones when
models change places. density 1 is task arithmetic.

Differs from mergekit in: its `rescale` gives a masked tensor the sum of magnitudes it had; here it divides by the
probability, as in the paper (the two agree to the spread of that sum). Other random numbers.
"""

from __future__ import annotations

from typing import ClassVar

from tunewright.weights.merge._task_vectors import RandomDrops


class DareLinear(RandomDrops):
    """Drop entries of task vectors at random, scale up the rest, and add them to the base."""

    papers: ClassVar[tuple[str, ...]] = ("dare-linear",)
