"""The trade: target, kept and drift as a change is dialled between the base and the tuned model.

A method is a curve, not a point: what is kept is compared at matched target, which takes several strengths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from tunewright.measure import monotone
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


NEAR = (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Strengths for reading a curve at nine tenths of its gain: closer together where that usually lies."""


def at_target(curve: Sequence[tuple[float, float, float]], target: float) -> float | None:
    """The figure where a curve first reaches a target; None where it never does.

    `curve`: (strength, target reached, figure) in rising strength. Between neighbours both are monotone cubics of the
    strength (PCHIP, Fritsch and Butland 1984): a chord would overrate what is lost, which grows faster than the gain.
    """
    for i, (_, reached, figure) in enumerate(curve):
        if reached == target:
            return figure
        if i and min(curve[i - 1][1], reached) < target < max(curve[i - 1][1], reached):
            strengths, targets, figures = zip(*curve, strict=True)
            at = monotone.reach(strengths, targets, i, target)
            return monotone.between(strengths, figures, monotone.slopes(strengths, figures), i, at)
    return None
