"""What selectors aim at: records of what is to be learnt, and never one that the run is measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from tunewright.contract.batch import Row
from tunewright.contract.method import arguments
from tunewright.data.dataset import Dataset
from tunewright.errors import DataError
from tunewright.measure.cache import rows_hash
from tunewright.recipe import MethodUse, Recipe
from tunewright.runs.selecting import method_of, record_key, subset


def aims(recipe: Recipe) -> bool:
    """Whether a selector of any stage asks for a target."""
    return any(aimed_at(recipe.data_for(stage).select) for stage in recipe.stages)


def aimed_at(uses: Iterable[MethodUse]) -> bool:
    """Whether one of these selectors asks for a target."""
    return any(map(_aims, uses))


def _aims(use: MethodUse) -> bool:
    method = type(method_of(use))
    return "select" in method.slots() and "target" in arguments(method, "select")


def halves(rows: Dataset) -> tuple[Dataset, Dataset]:
    """(rows to be measured on, rows to choose on): every other record each, all rows of a record on one side.

    Of a single record both are the whole.
    """
    order = {key: k for k, key in enumerate(dict.fromkeys(map(record_key, rows.rows)))}
    sides: list[list[int]] = [[], []]
    for i, row in enumerate(rows.rows):
        sides[order[record_key(row)] % 2].append(i)
    return subset(rows, sides[0]), subset(rows, sides[1] or sides[0])


def target_of(
    recipe: Recipe, learnt: Dataset | None, validation: Dataset | None, judged: Dataset | None
) -> tuple[Dataset, str]:
    """The rows that selectors aim at: those of validation, else `learnt`, what the recipe learns elsewhere; and a
    sentence on what was left out of them ("": nothing).

    `judged`: the evaluated rows; what equals one of them is left out. Where the run is measured on validation rows (the
    trials of a tuning), it is on one half of them, and the other is aimed at. DataError where nothing is left.
    """
    target = validation if validation is not None else learnt
    assert target is not None
    if validation is not None and recipe.measurement.split == "validation":
        measured, target = halves(validation)
        apart = {record_key(r) for r in measured.rows}.isdisjoint(map(record_key, target.rows))
        judged = measured if apart else target
    seen = set(map(_content, judged.rows)) if judged is not None else set()
    kept = [i for i, row in enumerate(target.rows) if _content(row) not in seen]
    if not kept:
        raise DataError(
            "every row that a selector could aim at is one that the run is measured on",
            where="data.validation" if validation is not None else "data.train",
            remedy="give data.validation rows of its own, other than those of data.eval",
        )
    out = len(target.rows) - len(kept)
    if not out:
        return target, ""
    told = f"{out:,} of {len(target.rows):,} rows that selectors could aim at are measured on: they aim at the others"
    return subset(target, kept), told


def _content(row: Row) -> str:
    """A row by what it holds, wherever it stands."""
    if row.input_ids:
        return hashlib.sha256(repr((list(map(int, row.input_ids)), row.label)).encode()).hexdigest()
    return rows_hash([replace(row, id="", source="")])
