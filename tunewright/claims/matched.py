"""What two methods keep at the same target: curves over strengths, compared where both have been.

A change can be dialled between the base (strength 0) and the tuned model (1), so a method is a curve of target against
what it lost. For each seed the target T is the best that both curves reach (or a share `at` of that gain over the
base); each curve's figure is read where it first gets to T, on monotone cubics through its strengths (PCHIP: a chord
overrates what is lost). Near its best a
curve gains little and loses much, so that a little noise in T moves the figure far: with `at` 0.9 effects vary half as
much from seed to seed (docs/claims.md shows by how much).

Two curves are not comparable where one has fewer than three strengths, or where the best that both reach is too little:
less than `reach` (half, unless said otherwise) of the better one's gain over the base. What a method keeps that has
hardly learnt says nothing. Such a seed has no effect and is counted (see `rule`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunewright.claims.rule import Direction
from tunewright.measure.trade import at_target

LEAST = 3  # strengths, the base among them
REACH = 0.5


@dataclass(frozen=True)
class Point:
    """A curve at one strength: the target reached there, and the figure to compare (kept loss, drift ...)."""

    strength: float
    target: float
    figure: float


@dataclass(frozen=True)
class Matched:
    """Both figures at one target; or why there are none."""

    target: float | None = None
    method: float | None = None
    baseline: float | None = None
    reason: str | None = None


def match(
    method: Sequence[Point], baseline: Sequence[Point], direction: Direction, *, reach: float = REACH, at: float = 1.0
) -> Matched:
    """Compare two curves of one seed at the best target that both reach, or at a share `at` of its gain over the base.

    `direction`: which way the target is better.
    """
    sign = 1.0 if direction == "higher" else -1.0
    curves = []
    for name, points in (("the method", method), ("the baseline", baseline)):
        curve = sorted(points, key=lambda p: p.strength)
        if len(curve) < LEAST or curve[0].strength != 0:
            return Matched(
                reason=(
                    f"{name} was measured at {len(curve)} strengths: at least {LEAST} are needed, the base among them"
                )
            )
        if not all(math.isfinite(p.target) and math.isfinite(p.figure) for p in curve):
            return Matched(reason=f"{name} has a figure that is not finite")
        curves.append([(p.strength, sign * p.target, p.figure) for p in curve])
    best = [max(t for _, t, _ in curve) for curve in curves]
    base = max(curve[0][1] for curve in curves)
    target = min(best)
    if target <= base or target - base < reach * (max(best) - base):
        slower = "the method" if best[0] <= best[1] else "the baseline"
        return Matched(
            reason=f"{slower} gains {target - base:.3g} where the other gains {max(best) - base:.3g}: no common target"
        )
    target = base + at * (target - base)
    figures = [at_target(curve, target) for curve in curves]
    assert figures[0] is not None and figures[1] is not None  # both start below the target and reach it
    return Matched(target=sign * target, method=figures[0], baseline=figures[1])
