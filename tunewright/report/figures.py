"""Which pictures a report gets, drawn by `plots` from the report and the logged steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.measure.intervals import Interval
from tunewright.report import along_words, dial_words, plots, words
from tunewright.report.adaptations import Adaptation
from tunewright.report.along import StageAlong
from tunewright.report.plots import Curve, Point
from tunewright.report.schema import Measured, Report, Strength
from tunewright.report.summary import Line

WIDE, NARROW = (444.0, 340.0), (352.0, 300.0)


def point(y: Interval, x: Interval | float, label: str = "") -> Point:
    """A point of the trade picture with the intervals of both its values."""
    y_ends = {"y_low": y.low, "y_high": y.high}
    if isinstance(x, Interval):
        return Point(x.value, y.value, label, x_low=x.low, x_high=x.high, **y_ends)
    return Point(float(x), y.value, label, **y_ends)


def strengths(report: Report) -> list[Strength]:
    """The dial's points above 0, full strength included even where only it was measured."""
    out = sorted((s for s in report.trade if s.strength > 0), key=lambda s: s.strength)
    if all(s.strength != 1 for s in out) and report.target is not None and report.target.after is not None:
        out.append(dial_words.ends(report)[1])
    return out


def trades(report: Report, most: int = 3) -> list[tuple[str, str]]:
    """(wide, narrow) pictures of target against drift, then against each kept measure; empty without a measured
    target.
    """
    target, base = report.target, dial_words.ends(report)[0]
    if target is None or base.target is None:
        return []
    out, dials = [], strengths(report)
    if report.drift is not None:
        unit = words.drift_unit(report.drift.measure, report.task)
        name = f"drift: {words.drift_name(report.drift.measure)}" + (f", {unit}" if unit else "")
        spots = [
            point(s.target, s.drift, _strength_label(s)) for s in dials if s.target is not None and s.drift is not None
        ]
        if spots:
            out.append(_both(spots, point(base.target, 0.0, "base"), target, f"{name} \u2192"))
    for kept in report.kept:
        spots = [
            point(s.target, s.kept[kept.name], _strength_label(s))
            for s in dials
            if s.target is not None and kept.name and kept.name in s.kept
        ]
        before = base.kept.get(kept.name or "")
        if spots and before is not None and len(out) < most:
            unit = f", {kept.unit}" if kept.unit != "fraction" else ""
            out.append(
                _both(
                    spots,
                    point(base.target, before, "base"),
                    target,
                    f"{words.subject(kept)}{unit}, worse \u2192",
                    kept,
                )
            )
    return out


def _strength_label(s: Strength) -> str:
    return "1 tuned" if s.strength == 1 else f"{s.strength:g}"


def _both(
    spots: list[Point], base: Point, target: Measured, x_label: str, kept: Measured | None = None
) -> tuple[str, str]:
    y_label = f"{words.subject(target)} ({target.direction} is better)"
    title = f"{y_label} against {x_label} for strengths {', '.join(p.label for p in spots)}"
    curves = [Curve("strength", spots)]

    def draw(width: float, height: float) -> str:
        return plots.trade(
            curves,
            base,
            x_label=x_label,
            y_label=y_label,
            title=title,
            width=width,
            height=height,
            fraction=target.unit == "fraction",
            x_fraction=kept is not None and kept.unit == "fraction",
            x_falls=kept is not None and kept.direction == "higher",
            from_zero=kept is None,
        )

    return draw(*WIDE), draw(*NARROW)


def strip(line: Line) -> str:
    """The small picture of a line of the before/after table; empty where nothing was measured."""
    m = line.measured
    if m is None or (m.before is None and m.after is None):
        return ""
    base = Point(0.0, 0.0) if line.kind == "drift" else _on_strip(m.before)
    title = f"{line.name}: {line.before or 'not measured'} before, {line.after or 'not measured'} after"
    return plots.strip(base, _on_strip(m.after), title=title, fraction=m.unit == "fraction", fate=line.fate)


def _on_strip(x: Interval | None) -> Point | None:
    return None if x is None else Point(x.value, 0.0, x_low=x.low, x_high=x.high)


def _column(metrics: Sequence[Mapping[str, Any]], steps: Sequence[float], key: str) -> list[tuple[float, float]]:
    pairs = zip(steps, (m.get(key) for m in metrics), strict=True)
    return [
        (s, float(v)) for s, v in pairs if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
    ]


def timeline(metrics: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[tuple[float, str]]]:
    """A step for each record that never goes back, and (step, name) where each stage but the first begins.

    Stages that count their steps from the start are put one behind the other.
    """
    steps: list[float] = []
    marks: list[tuple[float, str]] = []
    offset, last, stage = 0.0, 0.0, None
    for record in metrics:
        step, now = record.get("step"), record.get("stage")
        step = float(step) if isinstance(step, int | float) else last + 1
        if steps and now != stage and step < last:
            offset = steps[-1]
        if steps and now != stage and now is not None:
            marks.append((steps[-1], str(now)))
        steps.append(offset + step)
        last, stage = step, now
    return steps, marks


def training(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Loss, learning rate and gradient norm over the steps: those that were logged."""
    steps, marks = timeline(metrics)
    out = []
    loss, held_out = _column(metrics, steps, "loss"), _column(metrics, steps, "eval_loss")
    if loss:
        x, y = zip(*loss, strict=True)
        name = "training loss"
        out.append(
            plots.over_steps(
                x,
                y,
                y_label=name,
                title=f"{name} over steps",
                smoothed=len(loss) > 12,
                dots=held_out,
                marks=marks,
                zero=True,
            )
        )
    marks = [(step, "") for step, _ in marks]
    for key, name in (("learning_rate", "learning rate"), ("grad_norm", "gradient norm before clipping")):
        pairs = _column(metrics, steps, key)
        if pairs:
            x, y = zip(*pairs, strict=True)
            noisy = key == "grad_norm" and len(pairs) > 12
            out.append(
                plots.over_steps(x, y, y_label=name, title=f"{name} over steps", smoothed=noisy, marks=marks, zero=True)
            )
    return out


def along(found: Sequence[StageAlong]) -> list[str]:
    """Each figure along a stage, a dot an evaluation; a line at its start, below or above which is the gap."""
    out = []
    for stage in found:
        for f in stage.figures:
            if len(f.steps) < 2:
                continue
            name = along_words.name(f) if len(found) == 1 else f"{stage.stage}: {along_words.name(f)}"
            steps, values = [float(s) for s in f.steps], [v.value for v in f.values]
            dots = list(zip(steps, values, strict=True))
            start = [values[0]] * len(steps)
            title = f"{name} along the stage; line: where it stood at the start"
            out.append(plots.over_steps(steps, start, y_label=name, title=title, dots=dots))
    return out


def streams(found: Sequence[Adaptation]) -> list[str]:
    """What each method answered over the stream, with rings for no adaptation."""
    out = []
    for one in found:
        rows = [float(p.rows) for p in one.curve]
        if len(rows) < 2:
            continue
        name = f"{one.method}: {words.metric_name(one.metric)}"
        dots = [(float(p.rows), p.without) for p in one.curve]
        title = f"{name} over the rows of the stream, online; rings: without adaptation"
        online = [p.online for p in one.curve]
        out.append(plots.over_steps(rows, online, y_label=name, title=title, dots=dots, x_label="rows"))
    return out
