"""One row of a user's data before it is encoded, and what is said of a row that cannot be used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunewright.errors import DataError


class Record(dict[str, Any]):
    """A row's columns, brought to one of the canonical shapes of `data.shapes`.

    `id` is stable and unique in a source ("train.jsonl:12"), `where` is what an error names, `source` is the source's
    name and `shape` the name of the shape that was recognised in the file ("chat", "alpaca", ...). `base` is the folder
    that relative paths in the row start from.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        id: str,
        where: str | None = None,
        source: str = "",
        shape: str = "",
        base: str = "",
    ):
        super().__init__(values)
        self.id, self.where, self.source, self.shape, self.base = id, where or id, source, shape, base

    def replace(self, **changes: Any) -> Record:
        """Return a copy with some columns changed; the original is untouched."""
        return Record(
            {**self, **changes}, id=self.id, where=self.where, source=self.source, shape=self.shape, base=self.base
        )


class RowProblem(Exception):
    """A row cannot be used: which field, why, and what to do about it. Whoever reads the row adds where it is."""

    def __init__(self, field: str, reason: str, remedy: str):
        self.field, self.reason, self.remedy = field, reason, remedy
        super().__init__(f"{field}: {reason}")

    def at(self, where: str) -> Problem:
        """Give the problem a place."""
        return Problem(where, self.field, self.reason, self.remedy)


def lone_surrogate(text: str, field: str = "text") -> RowProblem | None:
    """What is wrong with a text that holds half of a surrogate pair, as JSON may; None for every other text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        what = f"half of a character ({half}, a lone surrogate) at place {error.start}: the text was cut in its middle"
        return RowProblem(field, what, "write the whole character or U+FFFD there, or take the row out")
    return None


def finite(value: Any) -> float | None:
    """The finite number that a value is or, as text, spells: cells of tables are text. None for anything else."""
    try:
        number = float(value) if isinstance(value, str | bool | int | float) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Problem:
    """A bad row: where (file:line), field, reason, remedy."""

    where: str
    field: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.field}: {self.reason}\n  -> {self.remedy}"

    def error(self) -> DataError:
        """The problem as an error that ends a run."""
        return DataError(f"{self.field}: {self.reason}", where=self.where, remedy=self.remedy)


def refuse(problems: list[Problem], source: str, rows: int) -> DataError:
    """One error for several bad rows: the first three, how many there are, and how to see them all."""
    shown = "\n".join(f"  {p.where}: {p.field}: {p.reason} ({p.remedy})" for p in problems[:3])
    shown += f"\n  and {len(problems) - 3:,} more" if len(problems) > 3 else ""
    return DataError(
        f"{len(problems)} of {rows} rows cannot be used:\n{shown}",
        where=source,
        remedy="`tunewright check RECIPE` lists them all, and with --clean writes a clean copy",
    )
