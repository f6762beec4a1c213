"""A table's row as a record: its cells by column, the same as a plain text, and the target as `label`.

Cells are numbers, texts (dates as ISO writes them), true or false, or None where one is missing. The text is what
selectors and other methods of texts read; a task writes the cells in its own way (`tasks._table`).
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from tunewright.contract.records import RowProblem
from tunewright.errors import nearest
from tunewright.tasks._table import plain_text

LABEL = "label"
Cell = float | int | str | bool | None


def as_cells(
    row: Mapping[str, Any], columns: Mapping[str, str], features: Sequence[str] | None, target: str | None = None
) -> dict[str, Any]:
    """`cells`, `text`, and `label` where the row has a target. `columns`: `label` -> the target's column, where it is
    not the `target` that all sources have, and what features are called -> what the file calls them. RowProblem for a
    cell that is neither, and for names that are not there.
    """
    named_target = columns.get(LABEL, target)
    target = named_target or LABEL
    theirs = {ours: name for ours, name in columns.items() if ours != LABEL}
    for ours, name in theirs.items():
        if name not in row:
            raise RowProblem(name, f"columns names '{name}', which the row does not have", _near(name, row))
        if ours in row and ours != name and ours not in theirs.values():
            what = f"columns calls '{name}' by the name '{ours}', which another column has"
            raise RowProblem(ours, what, "give it another name")
    if target not in row and named_target is not None:
        raise RowProblem(target, f"the row has no column '{target}', the target", _near(target, row))
    renamed = {name: ours for ours, name in theirs.items()}
    named = {renamed.get(name, name): value for name, value in row.items() if name != target}
    if features is not None:
        named = {name: named[name] for name in features if name in named}
    cells = {str(name): cell_of(value, str(name)) for name, value in named.items()}
    out: dict[str, Any] = {"cells": cells, "text": plain_text(cells)}
    if target in row:
        out[LABEL] = cell_of(row[target], target)
    return out


def _near(name: str, row: Mapping[str, Any]) -> str:
    near = nearest(name, row, n=1)
    guess = f"did you mean '{near[0]}'? " if near else ""
    return f"{guess}The row has {', '.join(map(str, row))}: name the target in the recipe, data.target: your_column"


def cell_of(value: Any, name: str) -> Cell:
    """A cell as a plain value. RowProblem for a list, a mapping or bytes."""
    if hasattr(value, "item") and not isinstance(value, int | float | str):
        value = value.item() if getattr(value, "size", 1) == 1 else value
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, int | float):
        return None if isinstance(value, float) and math.isnan(value) else value
    if isinstance(value, datetime.datetime):
        midnight = value.time() == datetime.time() and value.tzinfo is None
        return value.date().isoformat() if midnight else value.isoformat(" ")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, str):
        return value if value.strip() else None
    what = f"a cell is a number, a text or a date, not {type(value).__name__}"
    raise RowProblem(name, what, "write it as text, or leave the column out: data.features")
