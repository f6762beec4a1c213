"""The trade: target, kept and drift as a change is dialled between the base and the tuned model.

A method is a curve, not a point: what is kept is compared at matched target, which takes several strengths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from tunewright.measure.intervals import Interval

Evaluation = Callable[[], Interval]


@dataclass(frozen=True)
class TradePoint:
    """The figures at one strength: 0 is the base, 1 the tuned model."""

    strength: float
    target: Interval
    kept: dict[str, Interval] = field(default_factory=dict)
    drift: Interval | None = None


def trade(
    at_strength: Callable[[float], AbstractContextManager[object]],
    strengths: Sequence[float],
    target: Evaluation,
    kept: Mapping[str, Evaluation],
    drift: Evaluation | None = None,
    *,
    known: Mapping[float, TradePoint] | None = None,
) -> list[TradePoint]:
    """Measure each strength, in rising order, each once. `at_strength(s)` sets the model for as long as it is entered.

    `known` holds points that were measured already (0 and 1, as a rule); they are taken over and not measured again.
    """
    points: dict[float, TradePoint] = {}
    for s in sorted(set(map(float, strengths)) | set(known or {})):
        if known is not None and s in known:
            points[s] = known[s]
            continue
        with at_strength(s):
            points[s] = TradePoint(
                s, target(), {name: f() for name, f in kept.items()}, None if drift is None else drift()
            )
    return list(points.values())


def at_target(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """The figure where a curve first reaches a target, linearly between neighbours; None where it never does.

    `curve`: (target reached, figure) in rising strength.
    """
    for i, (reached, figure) in enumerate(curve):
        if reached == target:
            return figure
        if i and min(curve[i - 1][0], reached) < target < max(curve[i - 1][0], reached):
            before, figure_before = curve[i - 1]
            return figure_before + (target - before) / (reached - before) * (figure - figure_before)
    return None
