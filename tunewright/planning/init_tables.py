"""Whether a file is a table with a target, for a first recipe: which column, and whether it is a class or a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tunewright.errors import DataError
from tunewright.planning.columns import guessed
from tunewright.recipe import Source
from tunewright.tasks import _table
from tunewright.tasks._parts import CLASSES_OF_TABLES, NUMBERS_OF_TABLES, TABULAR

CALLED = (
    *("target", "label", "class", "y", "outcome", "diagnosis", "species", "survived", "churn", "income", "price"),
    *("quality", "default", "category", "type", "rating", "score"),
)
"""What people call a table's target, most usual first."""
LOOKED_AT = 200
"""Rows by which it is told."""
FEW = 20
"""Different whole numbers up to which they are classes."""


def target_in(path: str, task: str | None) -> tuple[str, str, Sequence[str]] | None:
    """(task, the target's column, the other columns) of a file that is a table with a target; None where the file's
    rows are those of another task. `task`: where it is given already; then the last column is the target where no name
    says which. DataError where such a file has no row, or one column alone.
    """
    asked = task in TABULAR
    if task is not None and not asked:
        return None
    rows = _raw(path)
    if not rows and not asked:
        return None
    if not rows:
        raise DataError("the file holds no row", where=path, remedy="give a table with a first line of names")
    columns = [str(c) for c in rows[0]]
    if len(columns) < 2:
        if not asked:
            return None
        raise DataError("the file has one column alone", where=path, remedy="give a table with columns and a target")
    folded = {c.strip().lower(): c for c in reversed(columns)}
    target = next((folded[name] for name in CALLED if name in folded), columns[-1] if asked else None)
    if target is None or not asked and (_known(path) or set(guessed(rows)) - {"text"}):
        return None
    values = [v for row in rows if not _table.is_empty(v := row.get(target))]
    numbers = [x for v in values if (x := _table.number_in(v)) is not None]
    several = len(set(numbers)) > FEW or any(x != int(x) for x in numbers)
    chosen = NUMBERS_OF_TABLES if len(numbers) == len(values) and several else CLASSES_OF_TABLES
    return (task if asked and task is not None else chosen), target, [c for c in columns if c != target]


def _known(path: str) -> bool:
    """Whether the first row that can be read is of a known shape."""
    from tunewright.data.read import read_lazily

    return next(iter(read_lazily(Source(path=path, limit=FEW), Path.cwd()).records), None) is not None


def _raw(path: str) -> list[Mapping[str, Any]]:
    """The first rows as they stand in the file."""
    from tunewright.data.raw import Bad
    from tunewright.data.read import locate, raw_rows

    source = Source(path=path, limit=LOOKED_AT)
    rows = raw_rows(locate(source, Path.cwd()), source)
    return [row for _, _, row, _ in islice(rows, LOOKED_AT) if not isinstance(row, Bad)]
