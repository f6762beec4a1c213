"""Answers as a reader wants them, where models answer in numbers or boxes: rows.jsonl has the whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tunewright.runs import boxed_pictures, drawn_pictures
from tunewright.tasks import _forecasts
from tunewright.tasks._parts import FORECASTING, PLAYING

if TYPE_CHECKING:
    from tunewright.runs.meter import Meter

SIDES = ("base", "tuned", "reference")
MOST = 24
"""Numbers of a list that are shown."""


def in_short(meter: Meter, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the page in words; as it is where answers are texts."""
    if drawn_pictures.are_drawn(meter.rows):
        return drawn_pictures.in_short(row)
    if boxed_pictures.is_boxed(meter.rows):
        return boxed_pictures.in_short(row)
    task = meter.session.task
    told = series if task.is_a(FORECASTING) else actions if task.is_a(PLAYING) else None
    return dict(row) if told is None else {**row, **{side: told(row[side]) for side in SIDES if row.get(side)}}


def samples_of(meter: Meter) -> list[tuple[str, str, str]]:
    """(what was asked, what was answered, what is right) of a few rows of the last evaluation while training."""
    told = [(asked, in_short(meter, {"tuned": said, "reference": right})) for asked, said, right in meter.samples]
    return [(asked, one["tuned"], one["reference"]) for asked, one in told]


def series(text: str) -> str:
    """A forecast, or what is right, a line a channel; of quantiles the middle one."""
    said = json.loads(text) if text.startswith("{") else None
    if said is None:
        return text
    values: dict[str, Any] = {
        name: told.get("right", told.get(_forecasts.MIDDLE)) if isinstance(told, dict) else told
        for name, told in said.items()
    }
    return "\n".join(f"{name}: {_listed(each)}" for name, each in values.items())


def actions(text: str) -> str:
    """A window's actions side by side; what an episode gave as it is told."""
    said = json.loads(text) if text.startswith("[") else text
    return _listed(said) if isinstance(said, list) else text


def _listed(values: list[Any]) -> str:
    """Numbers to four digits, "-" where none is known, and how many more there are."""
    shown = [f"({_listed(v)})" if isinstance(v, list) else "-" if v is None else f"{v:.4g}" for v in values[:MOST]]
    more = len(values) - len(shown)
    return ", ".join(shown) + (f" ... ({more} more)" if more else "")
