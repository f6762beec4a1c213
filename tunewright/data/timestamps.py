"""Times of a series: what a cell says, and the step from one to the next, which has to be the same throughout."""

from __future__ import annotations

import calendar
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from tunewright.contract.records import RowProblem
from tunewright.tasks._series import MONTHS, NUMBERS, SECONDS, WEEKDAYS, Step

Time = datetime | float
"""A time, or the number of a step."""
_MONTH = re.compile(r"(\d{4})[-/](\d{1,2})")
_FREQ = re.compile(r"(\d*)([A-Za-z]+)(?:-[A-Z]+)?")
_UNITS: dict[str, tuple[str, int]] = {
    **dict.fromkeys(("s", "S"), (SECONDS, 1)),
    **dict.fromkeys(("min", "T"), (SECONDS, 60)),
    **dict.fromkeys(("h", "H"), (SECONDS, 3_600)),
    "D": (SECONDS, 86_400),
    "W": (SECONDS, 604_800),
    "B": (WEEKDAYS, 1),
    **dict.fromkeys(("M", "ME", "MS"), (MONTHS, 1)),
    **dict.fromkeys(("Q", "QE", "QS"), (MONTHS, 3)),
    **dict.fromkeys(("A", "Y", "YE", "YS", "AS"), (MONTHS, 12)),
}
"""Frequencies as pandas writes them, older names too -> the unit and how many of it."""
_FORMATS = 'write it as ISO 8601 does, "2016-07-01 13:00:00" or "2016-07", or as the number of a step'


def time_of(value: Any, column: str) -> Time:
    """What a cell says. RowProblem for one that is empty or no time."""
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        return float(value)
    if hasattr(value, "item") and not isinstance(value, bool | int | float):  # of numpy
        return time_of(value.item(), column)
    if value is None or value != value or isinstance(value, str) and not value.strip():
        raise RowProblem(column, "the row has no time", f"write one, or take the row out; {_FORMATS}")
    text = str(value).strip()
    if re.fullmatch(r"\d{1,7}(\.0*)?", text):  # a year, or the number of a step
        return float(text)
    if found := _MONTH.fullmatch(text):
        text = f"{found[1]}-{int(found[2]):02d}-01"
    try:
        return datetime.fromisoformat(text.replace("/", "-") if re.match(r"\d{4}/", text) else text)
    except ValueError:
        raise RowProblem(column, f"{text[:40]!r} is no time that can be read for certain", _FORMATS) from None


def step_named(freq: Any, field: str = "freq") -> Step:
    """The step that a frequency of pandas or GluonTS names ("H", "15min", "W-SUN"). RowProblem for one that is none."""
    found = _FREQ.fullmatch(str(freq).strip())
    if found is None or found[2] not in _UNITS:
        raise RowProblem(field, f"{freq!r:.40} is no frequency", 'write one as pandas does: "h", "15min", "D", "MS"')
    unit, count = _UNITS[found[2]]
    return Step(unit, count * int(found[1] or 1))


def step_of(times: Sequence[Time], column: str) -> tuple[Step, None] | tuple[None, tuple[int, RowProblem]]:
    """(the step between times that follow one another by it; nothing), or (nothing; (the place of the first that does
    not, what is wrong with it)).
    """
    if len(times) < 2:
        what = RowProblem(column, "a series of one step has no step between times", "give two or more")
        return None, (0, what)
    kinds = [_kind(t) for t in times]
    mixed = next((i for i, kind in enumerate(kinds) if kind != kinds[0]), None)
    if mixed is not None:
        return None, (mixed, RowProblem(column, *_mixed(kinds[0], kinds[mixed], times[mixed])))
    ordered = [t.astimezone(UTC) if isinstance(t, datetime) and t.tzinfo else t for t in times]
    for i, (before, now) in enumerate(zip(ordered, ordered[1:], strict=False), 1):
        if now <= before:  # type: ignore[operator]
            return None, (i, RowProblem(column, *_backward(times[i - 1], times[i], equal=now == before)))
    return _regular(ordered, times, column)


def shown(time: Time) -> str:
    """A time as a reader is shown it: without a time of day where that is midnight."""
    if isinstance(time, datetime):
        text = time.isoformat(sep=" ")
        return text.removesuffix(" 00:00:00")
    return f"{time:g}" if time != int(time) else str(int(time))


def all_shown(times: Sequence[Time]) -> list[str]:
    """The times of a series, with a time of day where any is not midnight."""
    days = all(not isinstance(t, datetime) or shown(t) != t.isoformat(sep=" ") for t in times)
    return [t.isoformat(sep=" ") if isinstance(t, datetime) and not days else shown(t) for t in times]


def _kind(time: Time) -> str:
    if not isinstance(time, datetime):
        return "number"
    return "zoned" if time.tzinfo is not None else "plain"


def _mixed(first: str, other: str, time: Time) -> tuple[str, str]:
    if "number" in (first, other):
        return f"{shown(time)} is {_KINDS[other]}, and the rows before have {_KINDS[first]}", "write all alike"
    what = f"{shown(time)} has {_KINDS[other]}, and the rows before have {_KINDS[first]}"
    return what, "write all with their offset from UTC (2016-07-01 13:00:00+00:00), or all in UTC without one"


_KINDS = {"number": "a number", "zoned": "a time zone", "plain": "no time zone"}


def _backward(before: Time, now: Time, *, equal: bool) -> tuple[str, str]:
    if equal:
        more = "several series in one file need a column that tells them apart: data.columns: {id: your_column}"
        return f"{shown(now)} stands there twice", f"keep one row a time; {more}"
    return f"{shown(now)} stands behind {shown(before)}", "sort the rows by time, oldest first"


def _regular(ordered: Sequence[Time], told: Sequence[Time], column: str) -> Any:
    """As `step_of`, of times that grow."""
    if not isinstance(ordered[0], datetime):
        gaps = [float(b) - float(a) for a, b in zip(ordered, ordered[1:], strict=False)]  # type: ignore[arg-type]
        wrong = _first_other(gaps)
        whole = gaps[0] == int(gaps[0]) and gaps[0] > 0
        return (Step(NUMBERS, int(gaps[0]) if whole else 1), None) if wrong is None else _gap(told, wrong, column)
    times: list[datetime] = list(ordered)  # type: ignore[arg-type]
    spans = [b - a for a, b in zip(times, times[1:], strict=False)]
    wrong = _first_other(spans)
    if wrong is None and spans[0] < timedelta(days=28):
        return Step(SECONDS, max(1, round(spans[0].total_seconds()))), None
    if (months := _months(times)) is not None:
        return Step(MONTHS, months), None
    if wrong is None:
        return Step(SECONDS, round(spans[0].total_seconds())), None
    if _weekdays(times):
        return Step(WEEKDAYS), None
    return _gap(told, wrong, column)


def _first_other(gaps: Sequence[Any]) -> tuple[int, int] | None:
    """(the place of the first gap that is not the usual one, the place of one that is); None where all are equal."""
    usual = Counter(gaps).most_common(1)[0][0]
    wrong = next((i for i, gap in enumerate(gaps) if gap != usual), None)
    return None if wrong is None else (wrong, list(gaps).index(usual))


def _gap(times: Sequence[Time], found: tuple[int, int], column: str) -> Any:
    wrong, usual = found
    what = f"the step from {shown(times[wrong])} to {shown(times[wrong + 1])} is not that of the others"
    what += f" ({shown(times[usual])} to {shown(times[usual + 1])})"
    remedy = "write a row for every time, its value left empty where none is known; times of a clock that is put back "
    return None, (wrong + 1, RowProblem(column, what, f"{remedy}in autumn are written in UTC"))


def _months(times: Sequence[datetime]) -> int | None:
    """The number of months between times on one day of a month, or on its last; None where there is none."""
    counts = [12 * t.year + t.month for t in times]
    apart = {b - a for a, b in zip(counts, counts[1:], strict=False)}
    days = {t.day for t in times}
    last = all(t.day == calendar.monthrange(t.year, t.month)[1] for t in times)
    if len(apart) == 1 and (len(days) == 1 or last) and len({t.time() for t in times}) == 1:
        (months,) = apart
        return months or None
    return None


def _weekdays(times: Sequence[datetime]) -> bool:
    """Whether times are every day but Saturday and Sunday."""
    for before, now in zip(times, times[1:], strict=False):
        if now - before != timedelta(days=3 if before.weekday() == 4 else 1) or now.weekday() > 4:
            return False
    return True
