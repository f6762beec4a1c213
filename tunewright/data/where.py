"""Which rows of a source are meant: those that have one of some values in a column, by what is written in the file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunewright.data.places import SourceLike


def value_of(row: Mapping[str, Any], column: str, columns: Mapping[str, str]) -> Any:
    """A row's value in a column, by the column's own name or by what the source's `columns` calls it; None where the
    row has none.
    """
    named = columns.get(column)
    return row[named] if named is not None and named in row else row.get(column)


def said(value: Any) -> str | None:
    """What a value is compared by: its text, a whole number without a point (1.0 is "1"). None for one that is missing
    or is no single value.
    """
    if isinstance(value, str | bool):
        return str(value)
    if hasattr(value, "item") and not isinstance(value, int | float):  # a number of numpy's
        value = value.item() if getattr(value, "size", 1) == 1 else None
    if isinstance(value, int | float):
        if isinstance(value, float) and math.isnan(value):
            return None
        return str(int(value)) if value == value and math.isfinite(value) and value == int(value) else str(value)
    return None


def wanted(source: SourceLike) -> dict[str, set[str]]:
    """The texts that a source's `where` asks for, by column; empty where it asks for all rows."""
    asked: Mapping[str, Sequence[Any]] = getattr(source, "where", None) or {}
    return {column: {text for v in values if (text := said(v)) is not None} for column, values in asked.items()}


def draw_of(row: str) -> float:
    """A row's own draw in [0, 1), equal for equal ids."""
    return int.from_bytes(hashlib.sha256(row.encode()).digest()[:7], "big") / (1 << 56)


def drawn(row: str, source: SourceLike) -> bool:
    """Whether a row's draw lies in the source's `share`; every row's does where it has none."""
    share: tuple[float, float] | None = getattr(source, "share", None)
    return share is None or share[0] <= draw_of(row) < share[1]


def meant(row: Mapping[str, Any], asked: Mapping[str, set[str]], columns: Mapping[str, str]) -> bool:
    """Whether a row has one of the texts in each column that is asked for."""
    return all(said(value_of(row, column, columns)) in texts for column, texts in asked.items())
