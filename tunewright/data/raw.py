"""Rows as they stand in a file, before they have a shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bad:
    """A row that cannot be read: field, reason, remedy, and what stood there."""

    field: str
    reason: str
    remedy: str
    raw: str = ""


@dataclass
class Mark:
    """How far a file has been read: `rows` that were given; of a file of lines also the bytes and lines before the next
    row, by which reading goes on there without reading the file again.
    """

    rows: int = 0
    bytes: int = 0
    lines: int = 0


Rows = Iterator[tuple[int, Mapping[str, Any] | Bad]]
"""Each row with the number by which it is found in its file (a line, a sheet's row, a place), or what is wrong."""
