"""A probe's cells as text, the same on the page and in the terminal."""

from __future__ import annotations

from tunewright.measure.intervals import Interval
from tunewright.report.schema import Cell
from tunewright.report.words import plain


def cell(value: Cell | Interval) -> str:
    """A probe's cell as text."""
    if isinstance(value, Interval):
        ends = (
            f" ({plain(value.low)} to {plain(value.high)})" if value.low is not None and value.high is not None else ""
        )
        return plain(value.value) + ends
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else plain(value) if isinstance(value, float) else value
