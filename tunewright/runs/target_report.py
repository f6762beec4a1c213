"""The target as a report has it: before and after, and what is shown beside it."""

from __future__ import annotations

from typing import Literal

from tunewright.measure import metrics
from tunewright.measure.episodes import scored
from tunewright.measure.forecasts import judging
from tunewright.measure.intervals import Interval
from tunewright.measure.parts import beside, part_difference, part_names, part_summary
from tunewright.measure.rows import RowResult
from tunewright.measure.target import difference, get_metric, summary
from tunewright.report import schema
from tunewright.runs.meter import Meter
from tunewright.runs.readings import Readings


def target_of(meter: Meter, after: Readings) -> schema.Target | None:
    base = meter.base
    if not base.target:
        return None
    target = schema.Target(
        metric=meter.metric,
        direction=_direction(meter.metric),
        unit=unit_of(meter),
        before=summary(base.target, meter.metric),
        after=summary(after.target, meter.metric),
        difference=difference(base.target, after.target, meter.metric),
        n=sum(r.weight > 0 for r in base.target) if get_metric(meter.metric).kind == "ranked" else len(base.target),
    )
    if base.few_shot:
        target.few_shot, target.shots = summary(base.few_shot, meter.metric), meter.spec.few_shot
    target.fresh_head = meter.session.task.makes_head and bool(meter.session.loaded.new)
    if len(meter.session.stages) > 1:
        target.tasks = by_task(base.target, meter.metric)
    if base.probe:
        target.linear_probe = probe_of(meter, after)
    target.baselines = [_beside_model(meter, name, rows, after) for name, rows in base.baselines.items()]
    if base.commonest:
        target.commonest = summary(base.commonest, target.linear_probe.metric if target.linear_probe else meter.metric)
    target.others = [*beside_it(meter, after), *parts_in(meter, after), *other_heads(meter, after)]
    if base.choice and after.choice:
        target.likelihood = schema.Measured(
            name="likelihood choice",
            metric="accuracy",
            before=summary(base.choice, "accuracy"),
            after=summary(after.choice, "accuracy"),
            difference=difference(base.choice, after.choice, "accuracy"),
            n=len(base.choice),
        )
    return target


def _beside_model(meter: Meter, name: str, rows: list[RowResult], after: Readings) -> schema.Measured:
    """What needs no model (before) beside the tuned model, in the target's own metric."""
    metric = meter.metric
    return schema.Measured(
        name=name,
        metric=metric,
        direction=_direction(metric),
        unit=unit_of(meter),
        before=summary(rows, metric),
        after=summary(after.target, metric),
        difference=difference(rows, after.target, metric),
        n=len(rows),
    )


def beside_it(meter: Meter, after: Readings) -> list[schema.Measured]:
    """The metrics that are shown beside the headline, of the same answers."""
    out, first = [], meter.base.target[0]
    names = (*get_metric(meter.metric).beside, *meter.session.task.beside(meter.metric, meter.rows))
    for name in scored(names, first.reference) if meter.plays else judging(names, first.answer):
        before, tuned = (beside(results, name) for results in (meter.base.target, after.target))
        out.append(
            schema.Measured(
                metric=name,
                direction=_direction(name),
                unit=unit_beside(meter, name),
                before=summary(before, name),
                after=summary(tuned, name),
                difference=difference(before, tuned, name),
                n=len(before),
            )
        )
    return out


def other_heads(meter: Meter, after: Readings) -> list[schema.Measured]:
    """What other rows, or episodes elsewhere, give before and after."""
    out = []
    for head in meter.others:
        before, tuned = meter.base.others[head.key], after.others.get(head.key)
        if tuned is None:
            continue
        out.append(
            schema.Measured(
                name=head.name,
                metric=head.metric,
                direction=_direction(head.metric),
                unit=kept_unit(meter) if head.metric == "loss" else unit_beside(meter, head.metric),
                before=summary(before, head.metric),
                after=summary(tuned, head.metric),
                difference=difference(before, tuned, head.metric),
                n=len(before),
            )
        )
    return out


def _direction(metric: str) -> Literal["higher", "lower"]:
    return "higher" if get_metric(metric).higher_is_better else "lower"


def compares(meter: Meter) -> bool:
    """Whether the target's own metric scores a linear probe, too."""
    return get_metric(meter.metric).kind == "classified" or bool(get_metric(meter.metric).of)


def parts_in(meter: Meter, after: Readings) -> list[schema.Measured]:
    """The headline's parts (types of spans), each before and after."""
    base, metric = meter.base.target, meter.metric
    return [
        schema.Measured(
            name=part,
            metric=metric,
            before=part_summary(base, metric, part),
            after=part_summary(after.target, metric, part),
            difference=part_difference(base, after.target, metric, part),
            n=len(base),
        )
        for part in part_names(base, metric)
    ]


def probe_of(meter: Meter, after: Readings) -> schema.Measured:
    """The probe beside the tuned model: in the target's own metric where that is one of classes, else in accuracy."""
    base = meter.base
    same = compares(meter)
    metric = meter.metric if same else "accuracy"
    measured = schema.Measured(
        name="linear probe", metric=metric, before=summary(base.probe, metric), n=len(base.probe)
    )
    if same:
        measured.unit, measured.direction = unit_of(meter), _direction(metric)
    if same:
        measured.after = summary(after.target, metric)
        measured.difference = difference(base.probe, after.target, metric)
    return measured


def unit_of(meter: Meter) -> str:
    """The target's unit."""
    return metrics.unit_of(meter.metric, kept_unit(meter))


def unit_beside(meter: Meter, metric: str) -> str:
    """The unit of a metric that stands beside the target."""
    return metrics.unit_of(metric, kept_unit(meter))


def kept_unit(meter: Meter) -> str:
    """The unit of a loss, as the task says it."""
    return meter.session.task.unit_of(meter.model.config)


def by_task(rows: list[RowResult], metric: str) -> dict[str, Interval]:
    """The target on each evaluated source, by the source's name."""
    sources: dict[str, list[RowResult]] = {}
    for row in rows:
        sources.setdefault(row.source, []).append(row)
    return {name: summary(some, metric) for name, some in sources.items()}
