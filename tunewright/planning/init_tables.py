"""Whether a file is a table with a target, for a first recipe: which column, whether it is a class or a number, and
what a user says of the columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from tunewright.errors import DataError, RecipeError, did_you_mean
from tunewright.planning.columns import guessed
from tunewright.planning.init_text import commented, inside, scalar
from tunewright.recipe import Source
from tunewright.recipe.tables import ColumnKind
from tunewright.tasks import _table
from tunewright.tasks._parts import CLASSES_OF_TABLES, NUMBERS_OF_TABLES, TABULAR

CALLED = (
    *("target", "label", "class", "y", "outcome", "diagnosis", "species", "survived", "churn", "income", "price"),
    *("quality", "default", "category", "type", "rating", "score"),
)
"""What people call a table's target, most usual first."""
KINDS: tuple[str, ...] = get_args(ColumnKind)
"""What a column may be said to hold."""
LOOKED_AT = 200
"""Rows by which it is told."""
FEW = 20
"""Different whole numbers up to which they are classes."""


@dataclass(frozen=True)
class Said:
    """What a user says of a table: which column is the target, and what columns hold (number, category, date, text)."""

    target: str | None = None
    types: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.target is not None or bool(self.types)

    @classmethod
    def of(cls, target: str | None, types: Sequence[str]) -> Said:
        """Of a command line: `types` are texts as "zip=category". RecipeError for what is none."""
        found: dict[str, str] = {}
        for text in types:
            column, equals, kind = text.rpartition("=")
            if not equals or not column:
                what = f"'{text}' does not say what a column holds"
                raise RecipeError(what, where="--type", remedy=f"write COLUMN=KIND; kinds: {', '.join(KINDS)}")
            if kind not in KINDS:
                raise RecipeError(
                    f"a column holds no '{kind}'", where=f"--type {text}", remedy=did_you_mean(kind, KINDS)
                )
            if found.setdefault(column, kind) != kind:
                what = f"the column '{column}' is said to hold both {found[column]} and {kind}"
                raise RecipeError(what, where=f"--type {text}", remedy="say it once")
        return cls(target, found)


NOTHING = Said()


def target_in(path: str, task: str | None, said: Said = NOTHING) -> tuple[str, str, Sequence[str]] | None:
    """(task, the target's column, the other columns) of a file that is a table with a target; None where the file's
    rows are those of another task. `task`: where it is given already; then the last column is the target where no name
    says which. What is `said` of the columns says that the file is a table, too. DataError where such a file has no
    row, or one column alone; RecipeError for another task than a table's, and for columns that it does not have.
    """
    if said and task is not None and task not in TABULAR:
        flag = "--target" if said.target is not None else "--type"
        remedy = f"leave it out, or write --task {' or --task '.join(TABULAR)}"
        raise RecipeError(f"the task {task} reads no tables", where=flag, remedy=remedy)
    asked = task in TABULAR or bool(said)
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
    target = said.target
    if target is None:
        target = next((folded[name] for name in CALLED if name in folded), columns[-1] if asked else None)
    _refuse_absent(said, columns, target)
    if target is None or not asked and (_known(path) or set(guessed(rows)) - {"text"}):
        return None
    values = [v for row in rows if not _table.is_empty(v := row.get(target))]
    numbers = [x for v in values if (x := _table.number_in(v)) is not None]
    several = len(set(numbers)) > FEW or any(x != int(x) for x in numbers)
    chosen = NUMBERS_OF_TABLES if len(numbers) == len(values) and several else CLASSES_OF_TABLES
    return (task if task is not None else chosen), target, [c for c in columns if c != target]


def lines(column: str, said: Said) -> str:
    """The lines of a table's target, how to choose what is read, and what columns were said to hold."""
    guess = " (guessed: look at it)" if said.target is None else ""
    line = commented(f"  target: {scalar(column)}", f"what is told, by all other columns{guess}")
    line += "\n  # features: [...]           # columns to read; rows' numbers teach nothing\n"
    types = ", ".join(f"{inside(name)}: {kind}" for name, kind in said.types.items())
    return line + (f"  table: {{types: {{{types}}}}}\n" if types else "")


def _refuse_absent(said: Said, columns: Sequence[str], target: str | None) -> None:
    """RecipeError where something is said of a column that the table lacks, or of what its target holds."""
    if said.target is not None and said.target not in columns:
        raise _absent("--target", said.target, columns)
    for column in said.types:
        if column not in columns:
            raise _absent("--type", column, columns)
        if column == target:
            what = f"the column '{column}' is the target: whether it is a class or a number is the task"
            raise RecipeError(what, where="--type", remedy=f"write --task {' or --task '.join(TABULAR)}, or --target")


def _absent(flag: str, column: str, columns: Sequence[str]) -> RecipeError:
    return RecipeError(f"the table has no column '{column}'", where=flag, remedy=did_you_mean(column, columns))


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
