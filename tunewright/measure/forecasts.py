"""Errors of forecasts, from the texts of `tasks._forecasts`. A row is a window, each of its channels counts alike, and
values that are not known count nowhere.

- MASE: mean |y - f| over the series' own scale, that of its seasonal differences before the held-out end (Hyndman and
  Koehler 2006). A series whose history is constant has none, and does not count.
- sMAPE: mean 2 |y - f| / (|y| + |f|), from 0 to 2, as M4 and GluonTS have it; 0 where both are 0.
- WQL: twice the pinball loss, the mean over quantiles 0.1 to 0.9, summed over all rows, over the sum of |y| (GluonTS's
  mean weighted quantile loss). A forecast without quantiles is its own at every level, for which it is the sum of
  |y - f| over that of |y|.
- scaled MSE and MAE: of values over their channel's standard deviation before the held-out end, as papers on long
  horizons report them.

Point errors are those of the forecast, of a model with quantiles of the middle one. Shapes: P steps, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tunewright.contract.batch import Row
from tunewright.contract.metric import Answered, Metric
from tunewright.measure.rows import RowResult
from tunewright.tasks._forecasters import QUANTILES
from tunewright.tasks._forecasts import has_quantiles, read_forecast, read_quantiles, read_right
from tunewright.tasks._parts import FORECASTING
from tunewright.tasks.time_series_forecasting import right_of
from tunewright.tasks.time_series_forecasting import without_model as answers_without

Values = NDArray[np.float64]
_KEPT = 4096


def _mean(answer: str, reference: str, of: Callable[[Values, Values, float, float], float]) -> float:
    """The mean over channels of what `of` says of (right, said, MASE's scale, standard deviation); NaN where it is of
    none.
    """
    said, each = read_forecast(answer), list[float]()
    for name, (right, scale, std) in read_right(reference).items():
        known = ~np.isnan(right)
        if known.any():
            each.append(of(right[known], said[name][known], scale, std))
    told = [value for value in each if value == value]
    return float(np.mean(told)) if told else float("nan")


def mase(answer: str, reference: str) -> float:
    """A window's MASE, the mean over its channels that have one; 0 where none has, which `mean_mase` leaves out."""
    found = _mean(answer, reference, lambda y, f, scale, std: float(np.abs(y - f).mean() / scale))
    return found if found == found else 0.0


def mean_mase(rows: Sequence[Answered]) -> float:
    """The mean over windows that have one; NaN where none has."""
    told = [r.score for r in rows if _has_scale(r.reference)]
    return float(np.mean(told)) if told else float("nan")


@lru_cache(_KEPT)
def _has_scale(reference: str) -> bool:
    return any(scale == scale for _, scale, _ in read_right(reference).values())


def smape(answer: str, reference: str) -> float:
    """A window's sMAPE."""

    def of(y: Values, f: Values, scale: float, std: float) -> float:
        size = np.abs(y) + np.abs(f)
        return float(np.divide(2 * np.abs(y - f), size, out=np.zeros_like(size), where=size > 0).mean())

    return _mean(answer, reference, of)


def scaled_mse(answer: str, reference: str) -> float:
    """A window's mean squared error of scaled values."""
    return _mean(answer, reference, lambda y, f, scale, std: float((((y - f) / std) ** 2).mean()))


def scaled_mae(answer: str, reference: str) -> float:
    """A window's mean absolute error of scaled values."""
    return _mean(answer, reference, lambda y, f, scale, std: float(np.abs((y - f) / std).mean()))


@lru_cache(_KEPT)
def _quantile_loss(answer: str, reference: str) -> tuple[float, float]:
    """(twice the sum of pinball losses, the mean over levels; the sum of |y|) of a window."""
    said, loss, size = read_quantiles(answer), 0.0, 0.0
    levels = np.array(QUANTILES)
    for name, (right, _, _) in read_right(reference).items():
        there = ~np.isnan(right)
        short = right[there, None] - said[name][there]
        loss += float(2 * np.maximum(levels * short, (levels - 1) * short).mean(-1).sum())
        size += float(np.abs(right[there]).sum())
    return loss, size


def wql(answer: str, reference: str) -> float:
    """A window's own weighted quantile loss; 0 where all values are 0."""
    loss, size = _quantile_loss(answer, reference)
    return loss / size if size else 0.0


def all_wql(rows: Sequence[Answered]) -> float:
    """Of all rows together; NaN where all values are 0."""
    each = [_quantile_loss(r.answer, r.reference) for r in rows]
    size = sum(s for _, s in each)
    return sum(loss for loss, _ in each) / size if size else float("nan")


def _error(**how: object) -> Metric:
    given: dict[str, object] = {"higher_is_better": False, "share": False, "bounds": None, "tasks": (FORECASTING,)}
    return Metric("predicted", **{**given, **how})  # type: ignore[arg-type]


_ERRORS = ("smape", "scaled_mse", "scaled_mae")
FORECASTS: dict[str, Metric] = {
    "mase": _error(compare=mase, figure=mean_mase, beside=(*_ERRORS, "wql")),
    "smape": _error(compare=smape),
    "wql": _error(compare=wql, figure=all_wql, beside=("mase", *_ERRORS)),
    "scaled_mse": _error(compare=scaled_mse, beside=("scaled_mae",)),
    "scaled_mae": _error(compare=scaled_mae, beside=("scaled_mse",)),
}
"""The metrics of forecasts by name."""


def without_model(rows: Sequence[Row], metric: str) -> dict[str, list[RowResult]]:
    """What needs no model, by name: the last season again, and the last value."""
    compare, out = FORECASTS[metric].compare, dict[str, list[RowResult]]()
    assert compare is not None
    for row in rows:
        right = right_of(row)
        for name, answer in answers_without(row).items():
            score = compare(answer, right)
            told = RowResult(id=row.id, source=row.source, answer=answer, reference=right, score=score)
            out.setdefault(name, []).append(told)
    return out


def judging(names: Sequence[str], answer: str) -> list[str]:
    """Those of some metrics that a model's answers can be judged by: WQL only where they have quantiles."""
    return [n for n in names if n != "wql" or has_quantiles(answer)]
