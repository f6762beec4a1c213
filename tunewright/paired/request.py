"""What `tunewright measure` is asked, read from what is written on a command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunewright.errors import RecipeError
from tunewright.recipe import MethodUse
from tunewright.recipe.gate import Bound, bound

_CONDITION = re.compile(r"^\s*([A-Za-z0-9_./-]+)\s*:?\s*((?:[<>]|no\b|better\b).*)$", re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """What is to be measured. What is left out is as the runs among the sides have it: rows, kept texts, task, metric
    and how rows are read.
    """

    first: Sequence[str]
    second: Sequence[str]
    data: Sequence[str] = ()
    keep: Sequence[str] = ()
    task: str | None = None
    metric: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    rows: int | None = None
    keep_limit: int | None = None
    base: str | None = None
    device: str = "auto"
    bounds: Sequence[Bound] = ()
    probes: Sequence[str | MethodUse] = ()


def named(text: str) -> list[str]:
    """The members of a side: one name, or several between commas; a name that is there as it stands is one."""
    if Path(text).exists():
        return [text]
    names = [part for part in (p.strip() for p in text.split(",")) if part]
    if not names:
        raise RecipeError("a side without a name", where="measure", remedy="name a run, an adapter or a model")
    return names


def conditions(written: Sequence[str]) -> list[Bound]:
    """`target >= 0.85`, `kept.general no worse by 0.05`. RecipeError for one that cannot be read."""
    found = []
    for text in written:
        m = _CONDITION.match(text)
        if m is None:
            raise RecipeError(
                f"'{text}' is no condition",
                where="--require",
                remedy="write --require 'target >= 0.85' or --require 'kept.general no worse by 0.05'",
            )
        found.append(bound(m[1], m[2], "--require"))
    return found


def columns(written: Sequence[str]) -> dict[str, str]:
    """`label=topic`: where the rows have what a task reads. RecipeError for what is no pair."""
    found = {}
    for text in written:
        name, equals, column = text.partition("=")
        if not (equals and name and column):
            raise RecipeError(f"'{text}' names no column", where="--column", remedy="write --column label=topic")
        found[name] = column
    return found


_COLUMNS = re.compile(r"columns: \{([^{}]*)\}")
_SAID_OTHERWISE = {
    "or name its column in the source, by columns": "or name its column with --column",
    "`tunewright check RECIPE` lists them all, and with --clean writes a clean copy": "mend them, or give other {rows}",
    "`tunewright check RECIPE` lists every row's reason": "look at its rows, or give other {rows}",
}


def in_flags(text: str, rows: str = "--data") -> str:
    """What is said of a recipe's keys, said of flags: rows that a command line names have no recipe. `rows`: where it
    names them.
    """
    for key, flag in _SAID_OTHERWISE.items():
        text = text.replace(key, flag.format(rows=rows))
    return _COLUMNS.sub(lambda m: " ".join(f"--column {_pair(part)}" for part in m[1].split(",")), text)


def _pair(part: str) -> str:
    name, _, column = part.partition(":")
    column = column.strip()
    return f"{name.strip()}={'COLUMN' if column == '...' else column}"
