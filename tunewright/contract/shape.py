"""A row shape: the columns that tell it, and how it becomes canonical."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any


def as_it_is(row: dict[str, Any]) -> dict[str, Any]:
    """The row itself: its shape is canonical already."""
    return row


@dataclass(frozen=True)
class Shape:
    """A shape's name, the columns that tell it, and how it becomes canonical: what the task that reads it encodes.

    `canonical` gives a new row of the columns that tasks read (and keeps the others), or raises RowProblem, to which
    whoever reads the file adds file and line. A recipe names the shape as a source's `format`. `task`: what `tunewright
    init` takes rows of this shape to be for; "": it has to be told.
    """

    name: str
    columns: tuple[str, ...]
    canonical: Callable[[dict[str, Any]], dict[str, Any]] = as_it_is
    task: str = ""

    @cached_property
    def needs(self) -> frozenset[str]:
        """The columns, to be compared with a row's."""
        return frozenset(self.columns)
