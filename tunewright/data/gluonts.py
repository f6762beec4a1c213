"""A series in a row of its own, as GluonTS and `datasets` have it: `start`, `target`, `freq`, perhaps `item_id`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from tunewright.contract.records import RowProblem
from tunewright.data.timestamps import Time, all_shown, step_named, time_of
from tunewright.tasks._series import MONTHS, SECONDS, Series, Step

IDS = ("id", "item_id", "unique_id", "series_id", "series")
"""Names of a column that says which series a row is of."""
_DYNAMIC = ("feat_dynamic_real", "past_feat_dynamic_real", "feat_dynamic_cat")
STATIC = ("feat_static_cat", "feat_static_real")
"""What a row may say of its series that no model here reads."""


def canonical(row: dict[str, Any]) -> dict[str, Any]:
    """The row as a record of one series."""
    return {"series": series_of(row)}


def series_of(row: Mapping[str, Any]) -> Series:
    """The series of a row. RowProblem for one that holds none, or that is to be forecast from more than its past."""
    if name := next((n for n in _DYNAMIC if row.get(n) is not None), None):
        what = "it holds values beside the series, and the models that are known here read its past alone"
        raise RowProblem(name, what, f"take {name} out of the rows")
    target = row["target"]
    if not isinstance(target, list) or not target:
        raise RowProblem("target", f"it is no list of numbers: {str(target)[:40]}", "write [1.5, 2, null, 3]")
    lists = target if isinstance(target[0], list) else [target]
    if len({len(channel) for channel in lists}) != 1:
        raise RowProblem("target", "its channels are not equally long", "write a list of numbers a channel")
    names = ("target",) if len(lists) == 1 else tuple(f"target_{k}" for k in range(len(lists)))
    values = np.array([[number_in(cell, "target") for cell in channel] for channel in lists]).T
    start, step = time_of(row["start"], "start"), step_named(row.get("freq") or "")
    name = next((str(row[n]) for n in IDS if row.get(n) is not None), "")
    times = all_shown(_ahead(start, step, len(values)))
    return Series(name, values, names, step, times, [""] * len(values))


def number_in(cell: Any, name: str) -> float:
    """The number of a cell; NaN of an empty one. RowProblem for text."""
    if cell is None or isinstance(cell, str) and cell.strip().lower() in ("", "nan"):
        return np.nan
    try:
        if isinstance(cell, bool):
            raise ValueError
        number = float(cell)
    except (TypeError, ValueError):
        remedy = "write a number, or nothing where none is known; to leave a column out, name those that are read: "
        raise RowProblem(name, f"{str(cell)[:40]!r} is no number", f"{remedy}data.series.channels") from None
    if np.isinf(number):
        raise RowProblem(name, "it is infinite", "write a number, or nothing where none is known")
    return number


def _ahead(start: Time, step: Step, count: int) -> list[Time]:
    """Times from a start on, as a frequency has them; of months their first days."""
    if not isinstance(start, datetime):
        return [start + i * step.count for i in range(count)]
    if step.unit == SECONDS:
        return [start + timedelta(seconds=step.count * i) for i in range(count)]
    if step.unit == MONTHS:
        months = [start.year * 12 + start.month - 1 + i * step.count for i in range(count)]
        return [start.replace(year=m // 12, month=m % 12 + 1, day=1) for m in months]
    out, day = list[Time](), start
    while len(out) < count:
        if day.weekday() < 5:
            out.append(day)
        day += timedelta(days=1)
    return out
