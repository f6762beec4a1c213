"""Whether measured figures pass a gate: where the interval clears the bound; where it holds it, nobody can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from pydantic import Field

from tunewright.errors import MethodError, did_you_mean
from tunewright.measure.intervals import Interval
from tunewright.recipe.gate import KEPT, TASK, Bound
from tunewright.report.measured import Measured
from tunewright.report.saved import Part

Verdict = Literal["pass", "fails", "cannot tell"]
WORST_FIRST: tuple[Verdict, ...] = ("fails", "cannot tell", "pass")


class Condition(Part):
    """One condition of a gate and what became of it."""

    figure: str = Field(description="target, drift, calibration, kept.NAME or a harness's task.NAME")
    bound: str = Field(description="the condition as it is written")
    verdict: Verdict = Field(description="pass: the interval clears the bound; fails: it lies beyond; else cannot tell")
    measured: Interval = Field(description="the figure, or the change, that the bound is on")
    of: Literal["after", "change"] = Field(description="whether that is the tuned model's figure or the change")
    unit: str = Field("", description="the figure's unit, as `Measured` says it; empty of a drift")
    asked: bool = Field(False, description="whether the figure is of the questions of a pack")
    more: int | None = Field(
        None, ge=0, description="how many more rows, documents or sequences would tell, were the figure to stay there"
    )


class Gate(Part):
    """A gate's verdict: the worst of its conditions'."""

    verdict: Verdict = Field(description="pass, fails or cannot tell")
    conditions: list[Condition] = Field(description="every condition, in order")


class Drifted(Protocol):
    """A drift, as reports hold it."""

    value: Interval


class Figures(Protocol):
    """Where a gate reads figures: a run's report, or a comparison of two models."""

    @property
    def target(self) -> Measured | None: ...

    @property
    def kept(self) -> Sequence[Measured]: ...

    @property
    def packs(self) -> Sequence[Measured]: ...

    @property
    def drift(self) -> Drifted | None: ...


def judge(bounds: Sequence[Bound], figures: Figures, where: str = "gate") -> Gate:
    """The verdict on every condition. MethodError for a figure that was not measured."""
    conditions = [_judged(b, figures, where) for b in bounds]
    worst = min((c.verdict for c in conditions), key=WORST_FIRST.index, default="pass")
    return Gate(verdict=worst, conditions=conditions)


def _judged(bound: Bound, figures: Figures, where: str) -> Condition:
    interval, at_least, value, unit = _found(bound, figures, f"{where}.{bound.figure}")
    return Condition(
        figure=bound.figure,
        bound=bound.said,
        verdict=verdict_of(interval, at_least, value),
        measured=interval,
        of=bound.of,
        unit=unit,
        asked=bound.figure.removeprefix(KEPT) in {m.name for m in figures.packs} and bound.figure.startswith(KEPT),
        more=more(interval, value) if verdict_of(interval, at_least, value) == "cannot tell" else None,
    )


def _found(bound: Bound, figures: Figures, where: str) -> tuple[Interval, bool, float, str]:
    """(the interval that the bound is on, whether it is to be at least or at most, the bound, the unit)."""
    if bound.figure == "drift":
        if figures.drift is None:
            raise _missing(bound.figure, where, "drift was not measured here")
        return figures.drift.value, bound.at_least, bound.value, ""
    measured = _measured(bound.figure, figures, where)
    if measured.unit == "fraction" and abs(bound.value) > 1:
        what = f"'{bound.said}' asks for more than all: {bound.figure} is a share, from 0 to 1"
        raise MethodError(what, where=where, remedy="write '>= 85 %', or '>= 0.85'")
    interval = measured.after if bound.of == "after" else measured.difference
    if interval is None:
        raise _missing(bound.figure, where, "it has no " + ("figure" if bound.of == "after" else "difference"))
    if bound.of == "after" or measured.direction == "higher":
        return interval, bound.at_least, bound.value, measured.unit
    return interval, False, -bound.value, measured.unit  # of a loss a change is better where it is negative


def _measured(figure: str, figures: Figures, where: str) -> Measured:
    if figure.startswith(KEPT):
        by_name: Mapping[str, Measured] = {m.name or "": m for m in (*figures.kept, *figures.packs)}
        name = figure.removeprefix(KEPT)
        if name not in by_name:
            raise MethodError(f"nothing kept is called '{name}'", where=where, remedy=did_you_mean(name, by_name))
        return by_name[name]
    if figure.startswith(TASK):
        return _of_harness(figure.removeprefix(TASK), figures, where)
    found: Measured | None = getattr(figures, figure, None)
    if found is None:
        raise _missing(figure, where, "it was not measured here")
    return found


def _of_harness(name: str, figures: Figures, where: str) -> Measured:
    """The figure of a harness's task, `NAME` (its first metric) or `NAME/METRIC`."""
    every: list[Measured] = [m for m in (figures.target, *getattr(figures, "others", ())) if m is not None]
    named = {key: m for m in reversed(every) for key in (str(m.name), f"{m.name}/{m.metric}")}
    if name not in named:
        raise MethodError(f"no task '{name}' was evaluated", where=where, remedy=did_you_mean(name, named))
    return named[name]


def _missing(figure: str, where: str, why: str) -> MethodError:
    remedies = {
        "target": "give rows to evaluate: data.eval, or --data",
        "drift": "drift needs two models of one vocabulary",
        "calibration": "only answers with a confidence have it: `tunewright measure` of classes, or of few labels",
    }
    return MethodError(f"the gate asks for {figure}, and {why}", where=where, remedy=remedies.get(figure))


def verdict_of(interval: Interval, at_least: bool, value: float) -> Verdict:
    """pass or fails where the whole interval lies on one side of the bound (an end that touches it is on its side)."""
    low, high = interval.low, interval.high
    if low is None or high is None:
        return "cannot tell"
    if not at_least:
        low, high, value = -high, -low, -value
    return "pass" if low >= value else "fails" if high < value else "cannot tell"


def more(interval: Interval, value: float) -> int | None:
    """How many more units would bring the interval clear of a bound that it holds: its half width shrinks with the
    root of their number. None where the figure is on the bound, or has no interval.
    """
    away = abs(interval.value - value)
    if interval.low is None or interval.high is None or away <= 1e-12 * max(1.0, abs(value)):
        return None
    half = interval.value - interval.low if value < interval.value else interval.high - interval.value
    needed = math.ceil(interval.n * (half / away) ** 2)
    return max(1, needed - interval.n) if needed < 10**12 else None
