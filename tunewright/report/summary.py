"""The lines of the before/after table and of the dial, once for the terminal and the page."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tunewright.measure.intervals import Interval
from tunewright.recipe.naming import file_names
from tunewright.report import pack_words, words
from tunewright.report.schema import Answer, Measured, Report, Target


@dataclass(frozen=True)
class Line:
    """One quantity, before and after, as text; `measured` where there is more to draw.

    `kind`: target, beside, kept, drift.
    """

    name: str
    kind: str
    before: str = ""
    before_span: str = ""
    after: str = ""
    after_span: str = ""
    difference: str = ""
    difference_span: str = ""
    fate: str = ""
    note: str = ""
    measured: Measured | None = None


def _value(interval: Interval | None, unit: str) -> str:
    return "" if interval is None else words.score(interval.value, unit)


def _line(measured: Measured, name: str, kind: str) -> Line:
    unit, d = measured.unit, measured.difference
    n = f"n = {measured.n:,}" if measured.n is not None else ""
    return Line(
        name=name,
        kind=kind,
        before=_value(measured.before, unit),
        before_span=words.span(measured.before, unit),
        after=_value(measured.after, unit),
        after_span=words.span(measured.after, unit),
        difference="" if d is None else words.score(d.value, unit, sign=True),
        difference_span=words.span(d, unit),
        fate=words.verdict(measured),
        note=", ".join(t for t in (words.unit_of(unit), n) if t),
        measured=measured,
    )


def lines(report: Report) -> list[Line]:
    """What was measured before and after, in order: target, what stands beside it, kept, drift."""
    out = []
    target = report.target
    if target is not None:
        name = words.subject(target)
        out.append(_line(target, name, "target"))
        if target.likelihood is not None:
            out.append(_line(target.likelihood, "choosing the likeliest label", "beside"))
        out += _without_training(target)
        if target.few_shot is not None:
            shots = f"base shown {target.shots} examples" if target.shots is not None else "base shown a few examples"
            few = Measured(
                metric=target.metric,
                direction=target.direction,
                unit=target.unit,
                before=target.few_shot,
                n=target.few_shot.n,
            )
            out.append(_line(few, shots, "beside"))
        out += [_line(other, words.subject(other), "beside") for other in target.others]
    out += [_line(kept, words.subject(kept), "kept") for kept in report.kept]
    for figure, name, kind, note in pack_words.lines(report.packs):
        line = _line(figure, name, kind)
        notes = ", ".join(t for t in (line.note, note) if t)
        out.append(replace(line, fate=pack_words.fate(figure), note=notes))
    if report.drift is not None:
        out.append(_drift_line(report))
    return out


def _without_training(target: Target) -> list[Line]:
    """What a classifier's base gives without being trained: a probe (its change: tuned minus probe), the commonest
    class; of forecasts what needs no model.
    """
    out = []
    metric = target.linear_probe.metric if target.linear_probe is not None else target.metric
    of = words.of_metric(metric, target.metric)
    if target.linear_probe is not None:
        line = _line(target.linear_probe, f"linear probe of the base{of}", "beside")
        note = f"{line.note}, change: tuned minus probe" if line.difference else line.note
        out.append(replace(line, after="", after_span="", note=note))
    if target.commonest is not None:
        unit = target.linear_probe.unit if target.linear_probe is not None else target.unit
        n = target.commonest.n
        always = Measured(metric=metric, unit=unit, direction=target.direction, before=target.commonest, n=n)
        out.append(_line(always, f"{words.always(metric)}{of}", "beside"))
    for baseline in target.baselines:
        line = _line(baseline, f"{baseline.name}{of}", "beside")
        note = f"{line.note}, change: tuned minus {baseline.name}" if line.difference else line.note
        out.append(replace(line, after="", after_span="", note=note))
    return out


def _drift_line(report: Report) -> Line:
    drift = report.drift
    assert drift is not None
    n = f"{drift.sequences:,} {words.KINDS[drift.value.unit]}" if drift.sequences is not None else ""
    note = ", ".join(t for t in (words.drift_unit(drift.measure, report.task), n) if t)
    value, ends = words.score(drift.value.value, "nats"), words.span(drift.value, "nats")
    fate = "same" if drift.value.value == 0 else "moved"
    measured = Measured(
        name="drift",
        metric=drift.measure,
        direction="lower",
        unit=words.drift_unit(drift.measure, report.task) or "1",
        after=drift.value,
    )
    return Line(
        f"drift: {words.drift_name(drift.measure)}", "drift", "0", "", value, ends, "", "", fate, note, measured
    )


@dataclass(frozen=True)
class DialRow:
    """One strength: its name, and (value, interval) of target, each kept and drift, as text."""

    name: str
    cells: list[tuple[str, str]]


def dial(report: Report) -> tuple[list[str], list[DialRow]]:
    """The columns and rows of the dial table, base first and full strength last; empty where nothing was dialled."""
    if not report.trade:
        return [], []
    target, kept = report.target, [k for k in report.kept if k.name]
    unit = target.unit if target is not None else "fraction"
    columns = [words.subject(target)] if target is not None else []
    columns += [words.subject(k) for k in kept]
    columns += ["drift"] if report.drift is not None else []
    rows = []
    if target is not None and target.before is not None and all(s.strength != 0 for s in report.trade):
        cells = [_cell(target.before, unit)] + [_cell(k.before, k.unit) for k in kept]
        rows.append(DialRow("0 (base)", cells + ([("0", "")] if report.drift is not None else [])))
    for s in sorted(report.trade, key=lambda s: s.strength):
        cells = [_cell(s.target, unit)] if target is not None else []
        cells += [_cell(s.kept.get(k.name or ""), k.unit) for k in kept]
        if report.drift is not None:
            cells.append(("0", "") if s.strength == 0 else _cell(s.drift, "nats"))
        rows.append(DialRow({0.0: "0 (base)", 1.0: "1 (tuned)"}.get(s.strength, f"{s.strength:g}"), cells))
    return columns, rows


def metric_of(report: Report) -> str:
    """The target's metric; "" where there is no target."""
    return report.target.metric if report.target is not None else ""


def stage_table(report: Report) -> tuple[list[str], list[DialRow]]:
    """The columns (evaluated sources) and rows (base, then each stage) of the stage-by-task table; empty for a run of
    one stage, and of a sequence, which has a matrix of its own.
    """
    target = report.target
    tasks = list(dict.fromkeys(name for s in report.stages for name in s.tasks))
    if target is None or report.sequence is not None or len(report.stages) < 2 or not tasks:
        return [], []
    rows = [DialRow("base", [_cell(target.tasks.get(t), target.unit) for t in tasks])]
    rows += [DialRow(s.name, [_cell(s.tasks.get(t), target.unit) for t in tasks]) for s in report.stages]
    return file_names(tasks), rows


def _cell(interval: Interval | None, unit: str) -> tuple[str, str]:
    return _value(interval, unit), words.span(interval, unit)


FATES = {
    "fixed": "wrong before, right now",
    "broken": "right before, wrong now",
    "both wrong": "wrong before and now",
    "both right": "right before and now",
    "better": "a better score than before",
    "worse": "a worse score than before",
    "same": "the same score as before",
}


def fates(answers: list[Answer], direction: str = "higher") -> list[str]:
    """What became of each row: fixed, broken, both wrong or both right where scores are 0 or 1; else better, worse or
    same; '' for a row without scores."""
    scores = [s for a in answers for s in (a.base_score, a.tuned_score) if s is not None]
    crisp = direction == "higher" and all(s in (0.0, 1.0) for s in scores)
    return [_fate(a, crisp, direction) for a in answers]


def _fate(a: Answer, crisp: bool, direction: str) -> str:
    if a.base_score is None or a.tuned_score is None:
        return ""
    up = a.tuned_score - a.base_score if direction == "higher" else a.base_score - a.tuned_score
    if crisp:
        return "fixed" if up > 0 else "broken" if up < 0 else "both right" if a.base_score else "both wrong"
    return "better" if up > 0 else "worse" if up < 0 else "same"
