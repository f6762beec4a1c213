"""Windows of time series: what a forecaster is given, what it is to say, and what its errors are measured by.

A window at step t of a series has the values of the C steps before t (the context) and those of the P steps from t on
(the targets); C and P are the model's. Which steps t of a series are taken says its source's `split`:

- `train`: all, `stride` apart, whose targets end where the series' held-out end begins.
- `test`: windows of that end, P apart, the last one at the series' end. The end is a share of the steps
  (`data.series.test`), or as long as `backtests` windows.
- `rolling`: windows of the whole series, P apart, the last one at its end; the last `backtests` of them where a number
  is given.
- none: all, `stride` apart.

So no target of a test window is a target, or in the context, of a training window. What errors are divided by (a
channel's standard deviation, MASE's scale) is of the values before the held-out end; of a source without one, of those
before the first window's targets.

MASE's scale is the mean absolute difference of values a season apart (Hyndman and Koehler 2006, "Another look at
measures of forecast accuracy", section 4.2). Seasons are those of GluonTS (`gluonts.time_feature.get_seasonality`); as
there, a history that is no longer than a season is compared with its last values.

Shapes: T steps of a series, C steps of context, P steps of targets, K channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.contract.records import Problem, RowProblem
from tunewright.tasks._parts import ROLLING, TEST, TRAIN

Values = NDArray[np.float64]
SECONDS, MONTHS, WEEKDAYS, NUMBERS = "s", "M", "B", "#"
"""Units of a step between two times: seconds, months, days without weekends, numbers."""


@dataclass(frozen=True)
class Step:
    """The time between two steps of a series: `count` units."""

    unit: str
    count: int = 1

    @property
    def season(self) -> int:
        """Steps of a season: a day of hours or minutes, an hour of seconds, a week of weekdays, a year of months or
        quarters; 1 for days, weeks, years and numbers.
        """
        around = {MONTHS: 12, WEEKDAYS: 5}.get(self.unit, 0)
        if self.unit == SECONDS and self.count < 86_400:
            around = 3_600 if self.count < 60 else 86_400
        return around // self.count if around and around % self.count == 0 else 1

    def __str__(self) -> str:
        if self.unit == SECONDS:
            for name, size in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
                if self.count % size == 0:
                    return _plural(self.count // size, name)
        return _plural(self.count, {MONTHS: "month", WEEKDAYS: "weekday", NUMBERS: "step"}[self.unit])


def _plural(count: int, name: str) -> str:
    return f"{count} {name}s" if count != 1 else f"1 {name}"


@dataclass(frozen=True, eq=False)
class Series:
    """A series whole: `values` [T, K], NaN where none is known; `times` [T] as they are shown, `wheres` [T] where each
    stands in its file. `faults`: what is wrong with a channel of which some value is none.
    """

    name: str
    values: Values
    names: tuple[str, ...]
    step: Step
    times: Sequence[str]
    wheres: Sequence[str]
    faults: Mapping[str, Problem] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        def said(series: Series) -> tuple[Any, ...]:
            about = [str(t) for t in series.times], list(series.wheres), dict(series.faults)
            return series.name, series.names, series.step, *about, series.values.shape, series.values.tobytes()

        return isinstance(other, Series) and said(self) == said(other)

    def channel(self, k: int) -> Series:
        """One channel as a series of its own."""
        name = self.names[k] if not self.name else f"{self.name}/{self.names[k]}"
        return replace(self, name=name, values=self.values[:, k : k + 1], names=(self.names[k],))

    def channels(self, names: Sequence[str]) -> Series:
        """Some of its channels, in that order. RowProblem for one that it has not."""
        if lacks := [n for n in names if n not in self.names]:
            remedy = f"data.series.channels may name: {', '.join(self.names)}"
            raise RowProblem(lacks[0], f"there is no column '{lacks[0]}' of values", remedy)
        return replace(self, values=self.values[:, [self.names.index(n) for n in names]], names=tuple(names))


@dataclass(frozen=True, eq=False)
class Window:
    """A window of a series. `std` and `mase` [K] are what errors are divided by (`mase` NaN: a constant history),
    `seasonal` and `last` [P, K] the two forecasts that need no model.
    """

    series: Series
    at: int
    past: Values
    future: Values
    std: Values
    mase: Values
    seasonal: Values
    last: Values


def held_out(steps: int, options: Mapping[str, Any]) -> int:
    """Steps of a series' held-out end: whole windows, one at least."""
    length = int(options["prediction"])
    if options["backtests"] is not None:
        return int(options["backtests"]) * length
    return max(1, round(float(options["test"]) * steps) // length) * length


def places(steps: int, split: str | None, options: Mapping[str, Any]) -> range:
    """The steps at which windows of a series of T steps are taken, in order of time."""
    context, length, stride = int(options["context"]), int(options["prediction"]), int(options["stride"])
    end, first, apart = steps, context, stride
    if split == TRAIN:
        end = steps - held_out(steps, options)
    elif split == TEST:
        first, apart = max(context, steps - held_out(steps, options)), length
    elif split == ROLLING:
        apart = length
        if options["backtests"] is not None:
            first = max(context, steps - int(options["backtests"]) * length)
    last = end - length
    count = (last - first) // apart + 1 if last >= first else 0
    return range(last - (count - 1) * apart, last + 1, apart) if count else range(0)


def windows(series: Series, split: str | None, options: Mapping[str, Any]) -> Iterator[Window]:
    """The windows of a series; those without a known target, or with a channel whose context is unknown, are passed
    over. RowProblem where the series is too short for one.
    """
    steps, context, length = len(series.values), int(options["context"]), int(options["prediction"])
    found = places(steps, split, options)
    if not found:
        raise RowProblem("length", *_short(series, split, options))
    past_end = steps - held_out(steps, options) if split in (TRAIN, TEST) else found[0]
    history = series.values[:past_end]
    season = int(options["season"] or series.step.season)
    std, mase = deviations(history), scales(history, season)
    for at in found:
        past, future = series.values[at - context : at], series.values[at : at + length]
        if np.isnan(past).all(0).any() or np.isnan(future).all():
            continue
        seasonal = seasonal_naive(series.values[:at], season, length)
        yield Window(series, at, past, future, std, mase, seasonal, np.tile(known_last(past), (length, 1)))


def _short(series: Series, split: str | None, options: Mapping[str, Any]) -> tuple[str, str]:
    """What is wrong with a series too short for a window, and what to do."""
    context, length, steps = int(options["context"]), int(options["prediction"]), len(series.values)
    called = f"the series '{series.name}'" if series.name else "the series"
    what = f"{called} has {steps} steps, and a window takes {context + length}: {context} of context and {length} to "
    if split == TRAIN and steps >= context + length:
        end = held_out(steps, options)
        return (
            f"{what}forecast; the last {end} are held out, which leaves {steps - end} to learn from",
            "hold out fewer (data.series.test, data.series.backtests), or leave the series out (data.bad_rows: skip)",
        )
    return f"{what}forecast", "leave it out (data.bad_rows: skip), or take a model with a shorter context"


def deviations(history: Values) -> Values:
    """[K] standard deviation of each channel's known values; 1 where these are all equal."""
    with np.errstate(all="ignore"):
        known = [column[~np.isnan(column)] for column in history.T]
    out = np.array([column.std() if len(column) else 0.0 for column in known])
    return np.where(out > 0, out, 1.0)


def scales(history: Values, season: int) -> Values:
    """[K] mean |y_t - y_(t-season)| of the known values; NaN where there is none, or it is 0."""
    apart = season if season < len(history) else 1
    steps = np.abs(history[apart:] - history[:-apart])
    out = np.full(history.shape[1], np.nan)
    for k, column in enumerate(steps.T):
        known = column[~np.isnan(column)]
        if len(known) and known.mean() > 0:
            out[k] = known.mean()
    return out


def known_last(history: Values) -> Values:
    """[K] the last known value of each channel; 0 where none is known."""
    known = ((column, np.flatnonzero(~np.isnan(column))) for column in history.T)
    return np.array([column[at[-1]] if len(at) else 0.0 for column, at in known])


def seasonal_naive(history: Values, season: int, length: int) -> Values:
    """[P, K] the last season again and again; the last value where the history is shorter, or a value is unknown."""
    last = known_last(history)
    if season > len(history):
        return np.tile(last, (length, 1))
    repeated = history[-season:][np.arange(length) % season]
    return np.where(np.isnan(repeated), last, repeated)


def as_the_model(series: Series, options: Mapping[str, Any]) -> list[Series]:
    """A series with the channels that a model reads; each by itself where the model reads one. RowProblem where they
    are others, or hold what is no number.
    """
    if options["channels"] is not None:
        series = series.channels(options["channels"])
    wants, has = int(options["inputs"]), len(series.names)
    if wants == 1:
        return [series.channel(k) for k in range(has)] if has > 1 else [series]
    if wants != has:
        named = ", ".join(series.names[:8]) + (", ..." if has > 8 else "")
        raise RowProblem(
            "channels",
            f"there are {has} ({named}), and the model reads {wants} (num_input_channels)",
            "name those of the model, in its order: data.series.channels; or take a model of one channel, which reads "
            "each by itself",
        )
    return [series]
