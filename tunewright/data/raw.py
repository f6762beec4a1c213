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


Rows = Iterator[tuple[int, Mapping[str, Any] | Bad]]
"""Each row with the number by which it is found in its file (a line, a sheet's row, a place), or what is wrong."""
