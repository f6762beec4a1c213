"""What a run says while it goes on: each figure as soon as it is known, the base's first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tunewright.measure.intervals import Interval
from tunewright.measure.kept import kept
from tunewright.measure.target import summary
from tunewright.report import words
from tunewright.report.schema import Measured, Strength
from tunewright.runs import packs, results, target_report
from tunewright.runs.meter import Meter
from tunewright.runs.readings import Readings


def of_base(meter: Meter) -> Iterator[str]:
    """The untouched base: its target, what it gives when asked otherwise, and what is to be kept."""
    base = meter.base
    if base.target:
        name = words.metric_name(meter.metric)
        fresh = " (its head is new, drawn at random)" if meter.session.loaded.new else ""
        figure = _figure(summary(base.target, meter.metric), target_report.unit_of(meter))
        yield f"base: {name} {figure}, on {words.rows_of(meter.metric, len(base.target))}{fresh}"
    if base.choice:
        yield f"base, choosing the likeliest label: {_figure(summary(base.choice, 'accuracy'))}"
    if base.few_shot:
        yield f"base, shown {meter.spec.few_shot} examples: {_figure(summary(base.few_shot, meter.metric))}"
    if base.probe or base.commonest:
        metric = meter.metric if not base.probe or target_report.compares(meter) else "accuracy"
        unit = target_report.unit_of(meter) if metric == meter.metric else "fraction"
        of = words.of_metric(metric, meter.metric)
        if base.probe:
            yield f"linear probe of the base{of}: {_figure(summary(base.probe, metric), unit)}"
        if base.commonest:
            yield f"{words.always(metric)}{of}: {_figure(summary(base.commonest, metric), unit)}"
    for name, rows in base.baselines.items():
        yield f"{name}: {_figure(summary(rows, meter.metric), target_report.unit_of(meter))}"
    for name, documents in base.kept.items():
        yield f"base: loss on {name} {_figure(kept(documents), target_report.kept_unit(meter))}"
    for name, answers in base.packs.items():
        yield f"base: {words.metric_name(packs.METRIC)} on {name} {_figure(summary(answers, packs.METRIC))}"


def of_tuned(meter: Meter, after: Readings) -> Iterator[str]:
    """The tuned model at full strength, beside the base."""
    target = target_report.target_of(meter, after)
    measures = [*([target] if target is not None else []), *results.kept_of(meter, after)]
    for measured in [*measures, *results.packs_of(meter, after)]:
        yield f"tuned: {words.subject(measured)} {_changed(measured)}"
    drift = results.drift_of(meter, after)
    if drift is not None:
        yield f"tuned: drift {_figure(drift.value, words.drift_unit(drift.measure, meter.session.task.name))}"


def of_stage(meter: Meter, stage: str, tasks: Mapping[str, Interval]) -> str:
    """The target after one stage of several, on each evaluated source."""
    each = ", ".join(f"{source} {_figure(i, target_report.unit_of(meter))}" for source, i in tasks.items())
    return f"after '{stage}': {words.metric_name(meter.metric)} on {each}"


def of_strength(meter: Meter, point: Strength) -> str:
    """One strength of the dial in one line."""
    parts = []
    if point.target is not None:
        parts.append(f"{words.metric_name(meter.metric)} {_figure(point.target, target_report.unit_of(meter))}")
    parts += [f"loss on {name} {_figure(k, target_report.kept_unit(meter))}" for name, k in point.kept.items()]
    if point.drift is not None:
        parts.append(f"drift {_figure(point.drift, '1')}")
    return f"strength {point.strength:g}: {', '.join(parts)}"


def _changed(measured: Measured) -> str:
    by = measured.difference
    after = "" if measured.after is None else _figure(measured.after, measured.unit)
    if by is None:
        return after
    points = " points" if measured.unit == "fraction" else ""
    ends = words.span(by, measured.unit)
    return f"{after}, change {words.score(by.value, measured.unit, sign=True)}{points}" + (f" ({ends})" if ends else "")


def _figure(interval: Interval, unit: str = "fraction") -> str:
    """'54.2 % (48.0 to 60.4)', '3.11 (2.99 to 3.23) nats per token'."""
    tail = f" {unit}" if unit not in ("fraction", "1", "") else ""
    return f"{words.with_ends(interval, unit)}{tail}"
