"""From what both sides gave on the same rows to figures, each difference with its interval.

One run of each side: rows and documents are resampled as pairs. Several runs of a side (other seeds): Student's
interval over runs, Welch's where both sides have several, and the unit says "seed".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tunewright.errors import DataError
from tunewright.measure.calibration import expected_calibration_error
from tunewright.measure.intervals import (
    SHARE,
    Bounds,
    Interval,
    alike,
    bootstrap_statistic,
    discordant,
    mcnemar,
    t_interval,
    welch_interval,
)
from tunewright.measure.kept import FIGURES, DocumentLoss, kept, kept_difference
from tunewright.measure.metrics import unit_of
from tunewright.measure.pack import Pack
from tunewright.measure.rows import RowResult
from tunewright.measure.target import difference, figure_of, get_metric, summary
from tunewright.paired.reading import Read
from tunewright.paired.result import Compared
from tunewright.report.measured import Measured
from tunewright.report.packed import PackFigure
from tunewright.runs import packs as packed

CHOICE = "likelihood choice"
"""What the choice by likelihood among labels is called."""
CHANGE: Bounds = (-1.0, 1.0)
"""What the difference of two shares can be."""


def over_seeds(
    first: Sequence[float], second: Sequence[float], bounds: Bounds | None, rows: int
) -> tuple[Interval, Interval, Interval]:
    """Both sides' figures and their difference, of figures by run, each measured on so many rows."""
    apart = None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])
    changes = [b - a for a in first for b in second]
    both = len(first) > 1 and len(second) > 1
    found = welch_interval(first, second, bounds=apart) if both else t_interval(changes, bounds=apart)
    sides = [t_interval(side, bounds=bounds) for side in (first, second)]
    one, other = (_of_rows(interval, rows, bounds) for interval in sides)
    return one, other, _of_rows(found, rows, apart)


def _of_rows(interval: Interval, rows: int, bounds: Bounds | None) -> Interval:
    """The interval over runs; where no run differs, what the rows that they were all measured on leave open."""
    if bounds is None or not interval.known or interval.low != interval.high:
        return interval
    told = alike(interval.value, rows, bounds, level=interval.level, unit="seed")
    return told.model_copy(update={"n": interval.n})


def target_of(first: Sequence[Read], second: Sequence[Read]) -> Compared | None:
    """The headline; None where there were no rows. DataError where the sides have no row in common."""
    if not first[0].target:
        return None
    metric = first[0].metric
    sides = _common([[r.target for r in first], [r.target for r in second]])
    return _compared("target", sides, metric, unit_of(metric, first[0].unit), get_metric(metric).proportion)


def choice_of(first: Sequence[Read], second: Sequence[Read]) -> Compared | None:
    """The choice by likelihood among the labels; None where a side has none."""
    if not all(r.choice for r in [*first, *second]):
        return None
    sides = _common([[r.choice for r in first], [r.choice for r in second]])
    return _compared(CHOICE, sides, "accuracy", "fraction", True)


def _common(sides: Sequence[Sequence[Sequence[RowResult]]]) -> list[list[list[RowResult]]]:
    """Every run's results on the rows that all of them have, in one order."""
    there = [{r.id: r for r in results} for side in sides for results in side]
    ids = [i for i in there[0] if all(i in t for t in there)]
    if not ids:
        raise DataError("the two sides have no row in common", where="--data", remedy="give rows that both can read")
    return [[[{r.id: r for r in results}[i] for i in ids] for results in side] for side in sides]


def _compared(
    name: str, sides: Sequence[Sequence[Sequence[RowResult]]], metric: str, unit: str, proportion: bool
) -> Compared:
    first, second = sides
    direction = "higher" if get_metric(metric).higher_is_better else "lower"
    out = Compared(name=name, metric=metric, direction=direction, unit=unit, n=len(first[0]))
    if len(first) == len(second) == 1:
        out.before, out.after = summary(first[0], metric), summary(second[0], metric)
        out.difference = difference(first[0], second[0], metric)
        if proportion:
            out.right = discordant([r.score for r in first[0]], [r.score for r in second[0]])
            out.mcnemar = mcnemar(*out.right)
        return out
    by_run = [[_figure(results, metric) for results in side] for side in sides]
    share = unit == "fraction" and get_metric(metric).higher_is_better  # a rate of errors may pass 1
    out.before, out.after, out.difference = over_seeds(by_run[0], by_run[1], SHARE if share else None, len(first[0]))
    return out


def _figure(results: Sequence[RowResult], metric: str) -> float:
    if get_metric(metric).figure is not None or get_metric(metric).proportion:
        return figure_of(results, metric)
    weights = np.array([r.weight for r in results])
    return float((np.array([r.score for r in results]) * weights).sum() / weights.sum())


def kept_of(first: Sequence[Read], second: Sequence[Read]) -> list[Measured]:
    """Loss on each kept text; in bits a byte between models of other vocabularies, whose tokens are not the same."""
    same = len({r.vocabulary for r in [*first, *second]}) == 1
    out = []
    for name in first[0].kept:
        sides = [[r.kept[name] for r in side] for side in (first, second)]
        same_tokens = same and len({tuple((d.id, d.tokens) for d in docs) for side in sides for docs in side}) == 1
        out.append(_kept(name, sides, same_tokens, first[0].unit))
    return out


def packs_of(first: Sequence[Read], second: Sequence[Read], packs: Mapping[str, Pack]) -> list[PackFigure]:
    """The share of right answers to each pack's questions; of several runs of a side over these."""
    if len(first) == len(second) == 1:
        return [packed.figure(pack, first[0].packs[name], second[0].packs[name]) for name, pack in packs.items()]
    out = []
    for name, pack in packs.items():
        by_run = [[figure_of(r.packs[name], packed.METRIC) for r in side] for side in (first, second)]
        one = PackFigure(name=name, metric=packed.METRIC, n=len(pack.rows), floor=pack.info.floor)
        one.before, one.after, one.difference = over_seeds(by_run[0], by_run[1], SHARE, len(pack.rows))
        out.append(one)
    return out


def _kept(name: str, sides: Sequence[Sequence[Sequence[DocumentLoss]]], same: bool, unit: str) -> Measured:
    figure = "loss" if same else "bits_per_byte"
    first, second = sides
    out = Measured(name=name, metric=figure, direction="lower", unit=unit if same else "bits per byte", n=len(first[0]))
    if len(first) == len(second) == 1:
        out.before, out.after = kept(first[0], figure), kept(second[0], figure)
        out.difference = kept_difference(first[0], second[0]) if same else _bits_apart(first[0], second[0])
        return out
    by_run = [[_kept_figure(docs, figure) for docs in side] for side in sides]
    out.before, out.after, out.difference = over_seeds(by_run[0], by_run[1], None, len(first[0]))
    return out


def _kept_figure(documents: Sequence[DocumentLoss], figure: str) -> float:
    per = FIGURES[figure].per
    return FIGURES[figure].of(sum(d.nats for d in documents) / sum(per(d) for d in documents))


def _bits_apart(first: Sequence[DocumentLoss], second: Sequence[DocumentLoss]) -> Interval:
    if [d.id for d in first] != [d.id for d in second]:
        raise DataError("the two sides read other documents", where="--keep", remedy="give texts that both can read")

    def of(at: np.ndarray) -> float:
        sides = [[docs[i] for i in at] for docs in (first, second)]
        if not all(sum(d.bytes for d in side) for side in sides):
            return float("nan")
        return _kept_figure(sides[1], "bits_per_byte") - _kept_figure(sides[0], "bits_per_byte")

    return bootstrap_statistic(of, len(first), unit="document")


def calibration_of(first: Sequence[Read], second: Sequence[Read]) -> Compared | None:
    """Expected calibration error of the answers that come with a confidence; None where none do."""
    for of in (_targets, _choices):
        results = [[of(r) for r in side] for side in (first, second)]
        if all(rows and all(x.confidence is not None for x in rows) for side in results for rows in side):
            return _calibration(_common(results))
    return None


def _targets(read: Read) -> Sequence[RowResult]:
    return read.target


def _choices(read: Read) -> Sequence[RowResult]:
    return read.choice


def _error(results: Sequence[RowResult]) -> Callable[[np.ndarray], float]:
    sure, right = np.array([r.confidence for r in results], float), np.array([r.score for r in results])
    return lambda at: expected_calibration_error(sure[at], right[at])


def _calibration(sides: Sequence[Sequence[Sequence[RowResult]]]) -> Compared:
    first, second = sides
    n = len(first[0])
    out = Compared(name="calibration", metric="expected_calibration_error", direction="lower", n=n)
    if len(first) == len(second) == 1:
        a, b = _error(first[0]), _error(second[0])
        out.before, out.after = (bootstrap_statistic(e, n, bounds=SHARE) for e in (a, b))
        out.difference = bootstrap_statistic(lambda at: b(at) - a(at), n, bounds=CHANGE)
        return out
    by_run = [[_error(results)(np.arange(n)) for results in side] for side in sides]
    out.before, out.after, out.difference = over_seeds(by_run[0], by_run[1], SHARE, n)
    return out
