"""Figures along a stage: at each evaluation what every row, document and sequence gave is kept in the run's folder, so
that a run that was stopped goes on to the same curves, and each is compared with the start row by row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.files import checkpoint
from tunewright.files.regular import regular
from tunewright.measure import in_context
from tunewright.measure.intervals import SHARE, Bounds, Interval, Unit, bootstrap_mean, paired_difference
from tunewright.measure.kept import document_losses
from tunewright.measure.rows import RowResult
from tunewright.measure.stability_gap import stability_gap
from tunewright.measure.target import get_metric
from tunewright.models.distance import relative_distance
from tunewright.report.along import AlongFigure, StageAlong
from tunewright.runs.folder import ALONG, RunFolder
from tunewright.runs.meter import Meter


@dataclass(frozen=True)
class Series:
    """What one evaluation gave of one figure: a value a row, document or sequence, and what each weighs."""

    values: list[float]
    weights: list[float]

    def mean(self) -> float:
        return sum(v * w for v, w in zip(self.values, self.weights, strict=True)) / max(1e-9, sum(self.weights))


class Along:
    """Reads the figures that a recipe follows, and writes them down. `stage`: the stage that trains."""

    def __init__(self, folder: RunFolder, meter: Meter, stage: str):
        self.folder, self.meter, self.stage = folder, meter, stage
        self.names = meter.session.recipe.measurement.along

    def weights(self) -> dict[str, Series]:
        """What is read of the weights as they train."""
        found = relative_distance(self.meter.session.adapted) if "distance" in self.names else None
        return {} if found is None else {"distance/distance": Series([found], [1.0])}

    def read(self, step: int, tokens: int, beside: Mapping[str, Series]) -> dict[str, float]:
        """Read the model as it is now (inside `adapted.at_strength`), after `Meter.quick`, and write it down; returns
        the figures of what the recipe names, for the log.
        """
        followed = {**dict(self._followed()), **beside}
        target = {f"target/{m}": s for m, rows in self.meter.lately.items() if (s := _of_rows(m, rows)) is not None}
        line = {
            "step": step,
            "tokens": tokens,
            "series": {n: vars(s) for n, s in {**target, **followed}.items()},
        }
        file = _file(self.folder, self.stage)
        try:
            file.parent.mkdir(exist_ok=True)
            with open(file, "a", encoding="utf-8") as f:
                f.write(json.dumps(line) + "\n")
        except OSError as e:
            raise checkpoint.folder_error(e, file) from e
        return {n: s.mean() for n, s in followed.items()}

    def _followed(self) -> Iterator[tuple[str, Series]]:
        session, meter = self.meter.session, self.meter
        model, tokenizer, task = meter.model, session.tokenizer, session.task
        for name in self.names:
            if name in session.keep:
                docs = document_losses(model, tokenizer, task, session.keep[name].rows, packed=session.packed)
                told = [d for d in docs if d.tokens]
                yield f"kept/{name}", Series([d.nats / d.tokens for d in told], [d.tokens for d in told])
            elif name == "drift" and (drift := meter.drift_now()) is not None:
                values = drift.values or [drift.interval.value]
                yield f"drift/{drift.measure}", Series(list(values), [1.0] * len(values))
            elif name == "in-context":
                for kind in in_context.KINDS:
                    found = in_context.read(model, task, in_context.made(tokenizer, kind))
                    yield f"in-context/{kind}", Series(found.right, [float(n) for n in found.asked])


def _of_rows(metric: str, rows: Sequence[RowResult]) -> Series | None:
    """Rows as a series; None for a metric that is no mean of rows."""
    m = get_metric(metric)
    if m.figure is not None or m.kind == "ranked":
        return None
    weighs = metric == "loss" or m.weigh is not None
    return Series([r.score for r in rows], [r.weight if weighs else 1.0 for r in rows])


def drop_after(folder: RunFolder, stage: str, step: int) -> None:
    """Forget evaluations of steps that a resumed run will do again; `step` -1: all."""
    file = _file(folder, stage)
    if file.is_file():
        kept = [line for line in _lines(file) if line["step"] <= step]
        checkpoint.write_text(file, "".join(json.dumps(line) + "\n" for line in kept))


def report(folder: RunFolder, meter: Meter, stages: Sequence[str]) -> list[StageAlong]:
    """The figures along each stage that was looked at on its way."""
    found = []
    for stage in stages:
        lines = list(_lines(_file(folder, stage)))
        if lines:
            names = list(lines[0]["series"])
            found.append(StageAlong(stage=stage, figures=[_figure(n, lines, meter.metric) for n in names]))
    return found


def _figure(key: str, lines: Sequence[Mapping[str, Any]], metric: str) -> AlongFigure:
    of, _, name = key.partition("/")
    read = [(line["step"], Series(**line["series"][key])) for line in lines if key in line["series"]]
    direction, unit, bounds, by = _kind(of, name, read)
    values = [_interval(s, by, bounds) for _, s in read]
    figure = AlongFigure(
        name=name,
        of=of,  # type: ignore[arg-type]
        direction=direction,  # type: ignore[arg-type]
        unit=unit,
        steps=[step for step, _ in read],
        values=values,
    )
    if direction is None:
        return figure
    higher = direction == "higher"
    gap = stability_gap([s.mean() for _, s in read], higher_is_better=higher)
    if gap.worst is None:
        figure.depth = Interval(value=0.0, n=values[0].n, unit=by, method="no evaluation is worse than the start")
        return figure
    start, worst = read[0][1], read[gap.worst][1]
    sides = (worst.values, start.values) if higher else (start.values, worst.values)
    figure.depth = paired_difference(*sides, weights=start.weights, unit=by, bounds=bounds)
    figure.worst_step = read[gap.worst][0]
    figure.recovered_step = None if gap.recovered is None else read[gap.recovered][0]
    return figure


def _kind(of: str, name: str, read: Sequence[tuple[int, Series]]) -> tuple[str | None, str, Bounds | None, Unit]:
    """(direction, unit, bounds of a value, what is resampled) of a figure."""
    if of == "kept":
        return "lower", "nats per token", None, "document"
    if of == "in-context":
        return "higher", "fraction", SHARE, "sequence"
    if of == "drift":
        return None, "nats per token" if name == "kl" else "ratio", None, "sequence"
    if of == "distance":
        return None, "ratio", None, "row"
    m = get_metric(name)
    share = m.is_rate and all(0 <= v <= 1 for _, s in read for v in s.values)
    direction = "higher" if m.higher_is_better else "lower"
    return direction, "fraction" if share else "nats per token", SHARE if share else None, "row"


def _interval(series: Series, by: Unit, bounds: Bounds | None) -> Interval:
    return bootstrap_mean(series.values, weights=series.weights, unit=by, bounds=bounds)


def _file(folder: RunFolder, stage: str) -> Path:
    return folder.path / ALONG / f"{stage}.jsonl"


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """The evaluations of a file; a half-written last line is left out."""
    if not file.is_file():
        return
    for line in regular(file).read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return
