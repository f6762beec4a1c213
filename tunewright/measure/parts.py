"""The parts of a metric that has figures of its own for some of what rows hold (types of spans), before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tunewright.measure.intervals import SHARE, Interval, bootstrap_statistic
from tunewright.measure.rows import RowResult
from tunewright.measure.target import get_metric


def part_names(results: Sequence[RowResult], metric: str) -> list[str]:
    """The parts that a metric has figures of on these rows; none where it has one figure alone."""
    parts = get_metric(metric).parts
    return list(parts(results)) if parts is not None else []


def beside(results: Sequence[RowResult], metric: str) -> list[RowResult]:
    """The same answers as another metric scores them."""
    compare = get_metric(metric).compare
    if compare is None:
        return list(results)
    return [r.model_copy(update={"score": compare(r.answer, r.reference)}) for r in results]


def part_summary(results: Sequence[RowResult], metric: str, part: str, *, seed: int = 0) -> Interval:
    """A part's figure over rows and its interval; draws of rows without that part do not count."""
    figure = _part(metric, part)
    return bootstrap_statistic(lambda index: figure([results[i] for i in index]), len(results), seed=seed, bounds=SHARE)


def part_difference(
    before: Sequence[RowResult], after: Sequence[RowResult], metric: str, part: str, *, seed: int = 0
) -> Interval:
    """A part's figure after minus before, on the same rows, which are resampled as pairs."""
    figure = _part(metric, part)

    def of(index: np.ndarray) -> float:
        return figure([after[i] for i in index]) - figure([before[i] for i in index])

    return bootstrap_statistic(of, len(before), seed=seed, bounds=(-1.0, 1.0))


def _part(metric: str, part: str) -> Callable[[Sequence[RowResult]], float]:
    parts = get_metric(metric).parts
    assert parts is not None
    return lambda rows: parts(rows).get(part, float("nan"))
