"""What a recipe's model reads of its table: learnt of the training rows alone, or what came with the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tunewright.contract.records import Record, RowProblem
from tunewright.data.position import permutation
from tunewright.data.read import read_lazily
from tunewright.errors import DataError, ModelError, RecipeError
from tunewright.loading.locate import locate
from tunewright.loading.tables import layout_in
from tunewright.recipe import Recipe, Source
from tunewright.recipe.models import located
from tunewright.recipe.tables import TableSpec
from tunewright.tasks import _table
from tunewright.tasks._parts import CLASSES_OF_TABLES, TABULAR

LARGE = 100
"""Numbers as classes, of which a tenth of the rows each has its own, from which on they are told to be no classes."""


def with_layout(recipe: Recipe) -> Recipe:
    """The recipe with `data.table.learnt` written, of a task of tables; any other as it is. DataError for a target that
    is the same in every row or no class, and for columns that are not there; RecipeError where a model that reads a
    table already is asked to read another.
    """
    if recipe.task not in TABULAR or recipe.data.table is None or recipe.data.table.learnt is not None:
        return recipe
    known = _of_model(recipe)
    if known is not None:
        _same(recipe, known)
    filled = recipe.model_copy(deep=True)
    filled._base, filled._out, filled._notes = recipe._base, recipe._out, recipe._notes
    table = recipe.data.table.model_copy(update={"learnt": _learnt(recipe)}) if known is None else as_spec(known)
    filled.data.table = table
    return filled


def as_spec(layout: dict[str, Any]) -> TableSpec:
    """The section of a recipe that says what a layout does."""
    options = {k: v for k, v in layout.items() if k in TableSpec.model_fields}
    return TableSpec(**options, learnt={k: v for k, v in layout.items() if k not in options})


def columns_of(recipe: Recipe) -> str:
    """The columns of a recipe's table in words, as the training rows have them; empty of any other task."""
    layout = None if recipe.data.table is None else recipe.data.table.layout()
    return "" if layout is None else _table.described(layout)


def notes_of(recipe: Recipe) -> list[str]:
    """What to say of a table's columns from which nothing can be learnt."""
    layout = None if recipe.data.table is None else recipe.data.table.layout()
    return [] if layout is None else list(_table.faults(layout))


def held_rows(recipe: Recipe) -> set[tuple[str, str]]:
    """(source, id) of the rows of `data.train` that are held out, where `data.validation` is a share: drawn before
    anything is learnt of the rows, so that nothing is learnt of these.
    """
    share = recipe.data.validation
    if recipe.task not in TABULAR or not isinstance(share, int | float):
        return set()
    rows = [(record.source, record.id) for record in _records(recipe, recipe.data.train)]
    order = permutation(len(rows), recipe.train.seed, "validation", 0)
    return {rows[i] for i in order[: max(1, round(share * len(rows)))]}


def _records(recipe: Recipe, sources: list[Source]) -> Iterator[Record]:
    for source in sources:
        if not source.path.startswith("make:"):
            yield from read_lazily(source, recipe.base).records


def _of_model(recipe: Recipe) -> dict[str, Any] | None:
    """The layout beside the recipe's model; None where there is none, or the model cannot be found (which is said where
    it is loaded).
    """
    if recipe.model.fresh:
        return None
    try:
        spec = located(recipe.model, recipe.base)
        folder = locate(spec.name, spec.revision, progress=False).folder
    except (ModelError, OSError):
        return None
    return layout_in(folder, recipe.task)


def _same(recipe: Recipe, known: dict[str, Any]) -> None:
    """RecipeError where a recipe says otherwise than its model how a table is read."""
    table, names = recipe.data.table, [c["name"] for c in known["columns"]]
    remedy = "leave it out: the model reads tables as its table.json says; or adapt the model that it was made from"
    if recipe.data.features is not None and recipe.data.features != names:
        what = f"the model reads the columns {', '.join(names)}"
        raise RecipeError(what, where="data.features", remedy=remedy)
    assert table is not None
    for name in sorted(table.model_fields_set - {"learnt"}):
        if name == "types":
            wrong = next(
                (
                    n
                    for n, kind in table.types.items()
                    if (n, kind) not in {(c["name"], c["kind"]) for c in known["columns"]}
                ),
                None,
            )
            if wrong is not None:
                raise RecipeError(f"the model reads '{wrong}' otherwise", where="data.table.types", remedy=remedy)
        elif getattr(table, name) != known[name]:
            raise RecipeError(f"the model has {name}: {known[name]}", where=f"data.table.{name}", remedy=remedy)


def _learnt(recipe: Recipe) -> dict[str, Any]:
    table, held = recipe.data.table, held_rows(recipe)
    assert table is not None
    sources = [*recipe.data.train]
    for stage in recipe.stages:
        if stage.data is not None and "train" in stage.data.model_fields_set:
            sources += [s for s in stage.data.train if s not in sources]
    every = {(r.source, r.id): r for r in _records(recipe, sources)}  # a stage may read some of the same rows
    rows = [r for key, r in every.items() if key not in held]
    where = ", ".join(dict.fromkeys(s.path for s in sources))
    if not rows:
        read = [read_lazily(s, recipe.base) for s in sources]
        problems = [p for one in read for _ in [list(one.records)] for p in one.problems]
        if problems:
            raise problems[0].error()
        raise DataError("there is no row to learn from", where=where, remedy="give a file with rows")
    _check_target(recipe, [r.get("label") for r in rows], where)
    try:
        columns = _table.learn(
            (r["cells"] for r in rows if isinstance(r.get("cells"), dict)),
            recipe.data.features,
            table.types,
            table.bins,
        )
    except RowProblem as found:
        raise found.at(where).error() from None
    if not columns:
        raise DataError("there is no column beside the target", where=where, remedy="give a file with more columns")
    out: dict[str, Any] = {"columns": columns, "label": _target_of(recipe)}
    if recipe.task != CLASSES_OF_TABLES:
        numbers = sorted(x for r in rows if (x := _table.number_in(r.get("label"))) is not None)
        out["target"] = _table.spread(numbers)
    return out


def _target_of(recipe: Recipe) -> str:
    """The target's column, as the training files call it."""
    named = (s.columns["label"] for s in recipe.data.train if "label" in s.columns)
    return recipe.data.target or next(named, "label")


def _check_target(recipe: Recipe, targets: list[Any], where: str) -> None:
    """DataError for a target that is the same in every row, and for one of numbers that are no classes."""
    name = _target_of(recipe)
    there = [t for t in targets if not _table.is_empty(t)]
    if not there:
        what = f"no training row has a target in the column '{name}'"
        raise DataError(what, where=where, remedy="name the target's column: data.target: your_column")
    numbers = [_table.number_in(t) for t in there]
    different = {_table.said(t) for t in there}
    if recipe.task != CLASSES_OF_TABLES:
        if all(n is None for n in numbers):
            what = f"the target '{name}' holds no numbers: {_table.said(there[0])[:40]!r}"
            raise DataError(what, where=where, remedy=f"write task: {CLASSES_OF_TABLES}, or name another data.target")
        different = {str(n) for n in numbers if n is not None}
    if len(different) == 1 and recipe.data.labels is None:
        what = f"the target '{name}' is {min(different)[:40]} in every training row"
        raise DataError(what, where=where, remedy="name another data.target, or give rows with others")
    if recipe.task != CLASSES_OF_TABLES or recipe.data.labels is not None or any(n is None for n in numbers):
        return
    broken = sum(n is not None and n != int(n) for n in numbers)
    if broken > 0.1 * len(numbers) or len(different) > max(LARGE, len(numbers) / 10):
        what = f"the target '{name}' has {len(different):,} different numbers, as many classes"
        remedy = "write task: tabular-regression; if these are classes, name them: data.labels"
        raise DataError(what, where=where, remedy=remedy)
