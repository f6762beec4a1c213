"""Figures along a stage in words and cells, once for the terminal and the page."""

from __future__ import annotations

from dataclasses import dataclass

from tunewright.measure.intervals import Interval
from tunewright.report import words
from tunewright.report.along import AlongFigure
from tunewright.report.schema import Report

COLUMNS = ("start", "worst", "drop", "back at", "end")
MEANING = (
    "drop: how far the worst evaluation lies below the start, paired on the same rows, documents or sequences. It is "
    "the worst of several, which its interval does not count in. back at: the first step after it that is as good as "
    "the start"
)
_NAMES = {
    "copying": "in context: copying",
    "induction": "in context: induction",
    "kl": "drift: KL from base",
    "1-cka": "drift: 1 \u2212 CKA from base",
    "forecast": "drift: change of forecasts",
    "denoising": "drift: change of predictions",
    "action": "drift: change of actions",
    "distance": "distance of weights",
}


@dataclass(frozen=True)
class AlongLine:
    """One figure along a stage as text: (value, interval) by column, and whether it fell and stayed below."""

    name: str
    fate: str
    cells: tuple[tuple[str, str], ...]


def name(figure: AlongFigure) -> str:
    """What a figure is of, in words."""
    if figure.of == "target":
        return words.metric_name(figure.name)
    return f"loss on {figure.name}" if figure.of == "kept" else _NAMES[figure.name]


def stages(report: Report) -> list[tuple[str, list[AlongLine]]]:
    """(stage, its lines) of every stage that was followed; a stage alone has no name."""
    several = len(report.along) > 1
    return [(one.stage if several else "", [_line(f) for f in one.figures]) for one in report.along]


def _line(f: AlongFigure) -> AlongLine:
    start, end = (_cell(v, f.unit) for v in (f.values[0], f.values[-1]))
    if f.depth is None:
        return AlongLine(name(f), "", (start, ("", ""), ("", ""), ("", ""), end))
    if f.worst_step is None:
        return AlongLine(name(f), "", (start, ("none is worse", ""), ("0", ""), ("", ""), end))
    worst = f.values[f.steps.index(f.worst_step)]
    at = (f"{words.score(worst.value, f.unit)} at step {f.worst_step}", words.span(worst, f.unit))
    drop = (words.score(f.depth.value, f.unit, sign=True).removeprefix("+"), words.span(f.depth, f.unit))
    back = f"step {f.recovered_step}" if f.recovered_step is not None else "not here"
    sure = f.depth.low is not None and f.depth.low > 0
    fate = "moved" if sure and f.recovered_step is not None else "worse" if sure else ""
    return AlongLine(name(f), fate, (start, at, drop, (back, ""), end))


def _cell(found: Interval, unit: str) -> tuple[str, str]:
    return words.score(found.value, unit), words.span(found, unit)
