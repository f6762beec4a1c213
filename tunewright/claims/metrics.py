"""What claims compare: figures of a trial's record, by name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tunewright.claims.matched import Point
from tunewright.errors import ClaimError, did_you_mean

Read = Callable[
    [Any, str | None], Any
]  # (a trial's record, or one reading of it; what the name leaves open) -> a number, an interval or None
MATCHED = " at matched target"


@dataclass(frozen=True)
class Metric:
    """One kind of figure.

    `pattern`: its name, <> where a part is left open; `reading`: read at one strength, so that it makes a curve.
    """

    pattern: str
    about: str
    unit: str
    read: Read
    reading: bool = False

    @property
    def regex(self) -> str:
        return "^" + re.sub(r"<\w+>", "(.+)", self.pattern.replace(".", r"\.")) + "$"


def number(value: Any) -> float | None:
    """A figure as a finite float: a number, or the value of an interval; None for anything else."""
    value = getattr(value, "value", value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _kept(reading: Any, name: str | None) -> float | None:
    if name is not None:
        return number(reading.kept.get(name))
    figures = [number(v) for v in reading.kept.values()]
    return sum(v for v in figures if v is not None) / len(figures) if figures and None not in figures else None


def _cost(record: Any, field: str | None) -> float | None:
    value: Any = record.cost
    for part in (field or "").split("."):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return number(value)


def _step_seconds(record: Any, _: str | None) -> float | None:
    train, steps = _cost(record, "seconds.train"), _cost(record, "steps")
    return train / steps if train is not None and steps else None


def _probe(record: Any, path: str | None) -> float | None:
    probe, _, value = (path or "").partition(".")
    return number(record.probes.get(probe, {}).get(value))


METRICS: tuple[Metric, ...] = (
    Metric(
        "target",
        "the task's headline metric, at full strength",
        "fraction, or nats per token",
        lambda r, _: r.target,
        True,
    ),
    Metric("kept", "loss on what is to be kept, mean over the entries of `keep`", "nats per token", _kept, True),
    Metric("kept.<name>", "loss on one entry of `keep`", "nats per token", _kept, True),
    Metric(
        "drift", ("KL from the base (encoders without a head: 1 - CKA)"), "nats per token", lambda r, _: r.drift, True
    ),
    Metric(
        "cost.<field>",
        "a field of the report's cost: flops, peak_memory_bytes, trainable_parameters, seconds.train ...",
        "the field's",
        _cost,
    ),
    Metric("seconds per step", "time in training by its optimizer steps", "seconds", _step_seconds),
    Metric(
        "probe.<probe>", "a value of a probe named in `measure`: probe.calibration.tuned_ece", "the probe's", _probe
    ),
    Metric("measured", "what the claim's own `measure` gives", "the claim's", lambda r, _: None),
)


def find(name: str) -> tuple[Metric, str | None, bool]:
    """(kind, the part left open, whether at matched target) of a metric's name. ClaimError with the nearest names."""
    matched = name.endswith(MATCHED)
    plain = name.removesuffix(MATCHED)
    for metric in METRICS:
        if (fits := re.match(metric.regex, plain)) and not (
            matched and (not metric.reading or metric.pattern == "target")
        ):
            return metric, fits.group(1) if fits.groups() else None, matched
    raise ClaimError(f"no metric is named '{name}'", remedy=did_you_mean(name, list(_all_names())))


def _all_names() -> Iterator[str]:
    for m in METRICS:
        yield m.pattern
        if m.reading and m.pattern != "target":
            yield m.pattern + MATCHED


def full_strength(record: Any) -> Any:
    """The reading of the tuned model; None for a run that did not finish."""
    return next((r for r in record.strengths if r.strength == 1.0), None)


def value(record: Any, name: str) -> float | None:
    """A metric that is no matched one, of one finished trial; None where the record has no such figure."""
    metric, open_part, _ = find(name)
    source = full_strength(record) if metric.reading else record
    return None if source is None else number(metric.read(source, open_part))


def curve(record: Any, name: str) -> list[Point]:
    """The strength curve of target against the metric, the base first. Strengths without both figures are left out."""
    metric, open_part, _ = find(name)
    readings = {0.0: record.base, **{float(r.strength): r for r in record.strengths}}
    points = []
    for strength, reading in sorted(readings.items()):
        target = number(reading.target)
        figure = number(metric.read(reading, open_part))
        if strength == 0.0 and metric.pattern == "drift" and figure is None:
            figure = 0.0  # of the base from itself
        if target is not None and figure is not None:
            points.append(Point(strength, target, figure))
    return points


def table() -> str:
    """The metrics as Markdown."""
    lines = ["| metric | what | unit |", "| --- | --- | --- |"]
    for m in METRICS:
        lines.append(f"| `{m.pattern}` | {m.about} | {m.unit} |")
        if m.reading and m.pattern != "target":
            lines.append(
                f"| `{m.pattern}{MATCHED}` | the same, read off the strength curves at the best target that both "
                f"arms reach | {m.unit} |"
            )
    return "\n".join(lines)
