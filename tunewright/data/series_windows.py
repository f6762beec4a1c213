"""The series of a source as records of windows, which a task encodes one by one; what is told of them on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.contract.records import Record, RowProblem
from tunewright.tasks._parts import SERIES
from tunewright.tasks._series import Series, Window, as_the_model, windows

if TYPE_CHECKING:
    from tunewright.data.read import Read


def of_series(read: Read, options: Mapping[str, Any]) -> Iterator[Record]:
    """The windows of each series that a source reads; other records as they are. What is wrong with a series goes to
    `read.problems`; what is missing, constant or read channel by channel to `read.remarks`.
    """
    missing, still, channels, called = 0, list[str](), 0, set[str]()
    for record in read.records:
        whole = record.get(SERIES)
        if not isinstance(whole, Series):
            yield record
            continue
        names = whole.names if options["channels"] is None else options["channels"]
        if fault := next((whole.faults[n] for n in names if n in whole.faults), None):
            read.problems.append(fault)
            continue
        try:
            parts = as_the_model(whole, options)
            channels = max(channels, len(parts))
            for series in parts:
                label = series.name or (record.id if not whole.name and not whole.wheres[0] else "")
                label = f"{label}#{record.id}" if label in called else label
                called.add(label)
                missing += int(np.isnan(series.values).sum())
                for window in windows(series, record.get("split"), options):
                    if np.isnan(window.mase).any() and (not still or still[-1] != label):
                        still.append(label)
                    yield _record(record, window, label)
        except RowProblem as found:
            read.problems.append(found.at(record.where))
    if channels > 1:
        read.remarks.append(f"the model has one channel: each of {channels} is read as a series of its own")
    if missing:
        read.remarks.append(f"{missing:,} values are missing: they are masked, and no loss is taken of them")
    if still:
        named = ", ".join(f"'{name}'" for name in still[:3] if name) + (", ..." if len(still) > 3 else "")
        of = f"of {len(still)} series ({named})" if named else "of a channel"
        read.remarks.append(f"the history {of} is constant: MASE is not defined there, and does not count it")


def _record(record: Record, window: Window, label: str) -> Record:
    """A window's record: known by its series and the time of its first target, and found where that stands."""
    series, time = window.series, window.series.times[window.at]
    name = f"{record.source}:{label}@{time}" if label else f"{record.source}:{time}"
    where = series.wheres[window.at] or record.where
    return Record({"window": window}, id=name, where=where, source=record.source, shape=SERIES, base=record.base)
