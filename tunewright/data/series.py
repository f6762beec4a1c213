"""Series from the rows of files: a row a time, with a column a channel (wide) or with one value (long), or a row a
series (GluonTS). Every series becomes one record: `series`, a `tasks._series.Series`.

- wide: a time column, and a channel in every other column; with `id` many series.
- long: `id`, `timestamp`, `value` (Nixtla's names `unique_id`, `ds`, `y` too), one channel. Other columns are not read.
- GluonTS: `start`, `target` and `freq`, perhaps `item_id`; a target of several channels is a list of lists.

Of a folder each file without `id` is a series of its own, called as the file is; an `id` that stands in several files
is one series that goes on from file to file, in the order of their names.

A series that cannot be used is one problem, with the row where that shows. Times are sorted, each once, in equal steps;
what is missing is an empty cell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.contract.records import Problem, Record, RowProblem
from tunewright.data.gluonts import IDS, STATIC, number_in, series_of
from tunewright.data.raw import Bad
from tunewright.data.shapes import rename
from tunewright.data.timestamps import Time, all_shown, step_of, time_of
from tunewright.data.where import meant, wanted
from tunewright.errors import DataError
from tunewright.tasks._parts import SERIES, SPLITS
from tunewright.tasks._series import Series

if TYPE_CHECKING:
    from tunewright.data.places import Place, SourceLike

TIMES = ("timestamp", "date", "datetime", "time", "ds", "month", "year", "day")
VALUES = ("value", "y")
"""Names of columns in any case, the first that is there."""


def series_in(
    rows: Iterator[Any], place: Place, source: SourceLike, problems: list[Problem] | None, remarks: list[str]
) -> Iterator[Record]:
    """The series of a source's rows, in the order in which each begins. What is wrong is appended to `problems`;
    without it the first is raised as a DataError.
    """
    for key in ("share", "permute"):
        if getattr(source, key, None) is not None:
            what = f"'{key}' draws rows, and a series needs all of its own"
            raise DataError(what, where=place.name, remedy=f"remove {key}; data.series.test holds out by time")
    if source.split not in (None, *SPLITS):
        what = f"it has no part '{source.split}'"
        raise DataError(what, where=place.name, remedy=f"remove split, or write one of {', '.join(SPLITS)}")
    if place.media is not None:
        what = "a folder of pictures or recordings holds no series"
        raise DataError(what, where=place.name, remedy="name a folder of tables, such as CSV files")
    if getattr(source, "streaming", False):
        raise DataError("a series is read whole", where=place.name, remedy="remove streaming")
    often = Counter(p.name.split(".")[0] for p in place.files)
    gathered, asked = dict[tuple[bool, str], _Points](), wanted(source)
    untimed = set[str]()  # files whose every row lacks the same
    for name, where, row, folder in rows:
        try:
            if isinstance(row, Bad):
                raise RowProblem(row.field, row.reason, row.remedy)
            if asked and not meant(row, asked, source.columns):
                continue
            named = rename(row, source.columns) if source.columns else dict(row)
            if "target" in named and "start" in named:
                for column in STATIC:
                    if named.get(column) is not None:
                        _once(remarks, f"{column} is not read: forecasts are made of past values alone")
                about = {"id": name, "where": where, "source": place.name, "shape": SERIES, "base": folder}
                yield Record({"series": series_of(named), "split": source.split}, **about)
                continue
            file = name.rpartition(":")[0] if len(place.files) > 1 else ""
            if file in untimed:
                continue
            try:
                layout = _layout(named)
            except RowProblem as found:
                untimed.update([file] if file else [])
                raise (_no_table(found) if file and set(named) == {"text"} else found) from None
            called = str(named[layout.id]) if layout.id is not None else _called(file, often)
            points = gathered.setdefault(
                (layout.id is None, called if layout.id is not None else file),
                _Points(called, layout, name, where, folder),
            )
            points.goes_on(layout, file)
            points.add(named, where)
        except RowProblem as found:
            _tell(found.at(where), problems)
    first: Series | None = None
    for points in gathered.values():
        try:
            made = points.made(remarks)
            first = first or made
            _like(made, first, points)
        except _Fault as fault:
            _tell(fault.problem, problems)
            continue
        about = {"id": points.first, "where": points.where, "source": place.name, "base": points.folder}
        yield Record({"series": made, "split": source.split}, shape=SERIES, **about)


def _no_table(found: RowProblem) -> RowProblem:
    """What is said of a file of plain text beside tables."""
    return RowProblem(found.field, "this file is no table, and its folder is read whole", "move it out of the folder")


def _like(made: Series, first: Series, points: _Points) -> None:
    """`_Fault` where a series of several channels has others than the first one: they would be taken for the same."""
    if len(made.names) > 1 and made.names != first.names:
        what = f"its columns are {', '.join(made.names)}, and those of '{first.name}' {', '.join(first.names)}"
        remedy = "give all files the same columns in one order, or read them apart, each as a source"
        raise _Fault(RowProblem(made.names[0], what, remedy).at(points.where))


@dataclass(frozen=True)
class _Layout:
    """Which columns of rows hold what: the time, the id (None: one series), the channels."""

    time: str
    id: str | None
    channels: tuple[str, ...]
    passed: tuple[str, ...]


def _layout(row: Mapping[str, Any]) -> _Layout:
    lower = {str(name).lower(): name for name in reversed(list(row))}
    time = next((lower[n] for n in TIMES if n in lower), None)
    if time is None:
        has = ", ".join(map(str, row))
        raise RowProblem("timestamp", f"no column holds the time: {has}", "name it: data.columns: {timestamp: Month}")
    own = next((lower[n] for n in IDS if n in lower and lower[n] != time), None)
    rest = tuple(name for name in row if name not in (time, own))
    value = next((lower[n] for n in VALUES if n in lower), None)
    if not rest:
        raise RowProblem("value", "there is a time and no value", "give a column of numbers, or name it: value")
    return _Layout(time, own, rest if value is None else (value,), () if value is None else _others(rest, value))


def _called(file: str, often: Mapping[str, int]) -> str:
    """What a series is called that is a file of a folder: the file without endings where no other is called so."""
    stem = file.rpartition("/")[2].split(".")[0]
    return stem if often.get(stem) == 1 else file


def _others(rest: Sequence[str], value: str) -> tuple[str, ...]:
    return tuple(name for name in rest if name != value)


class _Fault(Exception):
    """A series that cannot be used, and where that shows."""

    def __init__(self, problem: Problem):
        self.problem = problem


@dataclass
class _Points:
    """The rows of one series as they come. What is wrong with a channel is said when the channel is read."""

    called: str
    layout: _Layout
    first: str
    where: str
    folder: str
    times: list[Time] = field(default_factory=list)
    wheres: list[str] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)
    faults: dict[str, Problem] = field(default_factory=dict)
    fault: Problem | None = None
    file: str = ""

    def goes_on(self, layout: _Layout, file: str) -> None:
        """A row of another file has the columns that the series began with; RowProblem where it has others."""
        own = (self.layout.time, self.layout.channels)
        if file != self.file and self.file and (layout.time, layout.channels) != own:
            what = (
                f"series '{self.called}' began with {', '.join(own[1])}, and here it has {', '.join(layout.channels)}"
            )
            raise RowProblem(layout.channels[0], what, "give files of one series the same columns, or another id")
        self.file = file

    def add(self, row: Mapping[str, Any], where: str) -> None:
        """A row more; of a series that is spoilt nothing more is kept."""
        if self.fault is not None:
            return
        try:
            self.times.append(time_of(row.get(self.layout.time), self.layout.time))
        except RowProblem as found:
            self.fault = found.at(where)
            return
        self.wheres.append(where)
        self.values.append([self._cell(row.get(name), name, where) for name in self.layout.channels])

    def _cell(self, cell: Any, name: str, where: str) -> float:
        try:
            return number_in(cell, name)
        except RowProblem as found:
            self.faults.setdefault(name, found.at(where))
            return np.nan

    def made(self, remarks: list[str]) -> Series:
        """The series whole; `_Fault` where its times are in no order."""
        if self.fault is not None:
            raise _Fault(self.fault)
        step, wrong = step_of(self.times, self.layout.time)
        if wrong is not None:
            at, problem = wrong
            before, here = (self.wheres[i].rpartition(":")[0] for i in (at - 1, at))
            if at and before != here:
                problem = RowProblem(
                    problem.field,
                    f"{problem.reason}, which is in {self.wheres[at - 1]}",
                    "rows go on from file to file in the order of the files' names: rename them",
                )
            raise _Fault(problem.at(self.wheres[at]))
        assert step is not None
        if self.layout.passed:
            _once(remarks, f"not read beside the values: {', '.join(self.layout.passed)}")
        values = np.array(self.values, dtype=np.float64)
        times = all_shown(self.times)
        return Series(self.called, values, self.layout.channels, step, times, self.wheres, self.faults)


def _once(remarks: list[str], text: str) -> None:
    if text not in remarks:
        remarks.append(text)


def _tell(problem: Problem, problems: list[Problem] | None) -> None:
    if problems is None:
        raise problem.error()
    problems.append(problem)
