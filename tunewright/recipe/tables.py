"""How the cells of a table are written for a model, and what a recipe of tables leaves out: that its sources are
tables, and which of their columns is the target.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tunewright.recipe.fields import Spec, Whole, problem
from tunewright.recipe.source import Source
from tunewright.tasks._parts import TABLE, TABULAR

ColumnKind = Literal["number", "category", "date", "text"]
"""What a table's column may hold."""


class TableSpec(Spec):
    """How a table's cells are written (tasks: tabular-classification, tabular-regression)."""

    types: dict[str, ColumnKind] = Field(
        default_factory=dict,
        description="column -> what it holds, where the training rows say it wrongly",
        examples=[{"zip": "category"}],
    )
    numbers: Literal["digits", "bins", "scaled"] = Field(
        "digits",
        description="how numbers are given: their digits; which of the training rows' quantile bins they lie in; or "
        "digits whose embeddings are scaled by the number",
        examples=["bins"],
    )
    digits: Whole = Field(
        4, gt=0, description="significant digits of a number; never fewer than stand before its point", examples=[3]
    )
    bins: Whole = Field(10, gt=1, description="quantile bins of a column (numbers: bins)", examples=[20])
    missing: Literal["leave_out", "write"] = Field(
        "leave_out", description="empty cells: left out, or written as missing", examples=["write"]
    )
    shuffle: bool = Field(False, description="cells in another order for each training row and epoch", examples=[True])
    learnt: dict[str, Any] | None = Field(
        None, description="written by a run: what each column is, by the training rows", examples=[None]
    )

    def layout(self) -> dict[str, Any] | None:
        """How rows are written, as `EncodeOptions.table` takes it; None while nothing was learnt of the rows."""
        if self.learnt is None:
            return None
        return {**self.model_dump(exclude={"learnt", "types"}), **self.learnt}


def as_table(source: Source, target: str | None, features: list[str] | None) -> Source:
    """A source read as a table, cell by cell."""
    source = source.model_copy(deep=True)
    source.format = source.format or TABLE
    source._target = target
    source._features = None if features is None else tuple(features)
    return source


def of_recipe(recipe: Any) -> None:
    """Write into a recipe of tables what it leaves out. An error of pydantic's for keys of another task, and for what
    tables cannot have.
    """
    parts = [(("data",), recipe.data), *((("stages", i, "data"), s.data) for i, s in enumerate(recipe.stages))]
    if recipe.task not in TABULAR:
        for place, data in parts:
            given = [k for k in ("target", "features", "table") if data is not None and getattr(data, k) is not None]
            if given:
                remedy = f"remove {given[0]}, or write task: {' or task: '.join(TABULAR)}"
                raise problem(f"the task {recipe.task} reads no tables", remedy, (*place, given[0]))
        return
    common = recipe.data
    _refuse(common)
    for place, data in parts:
        if data is None:
            continue
        if data.template is not None:
            what = "a table's rows are written cell by cell, and take no template"
            raise problem(what, "leave it out: data.table says how cells are written", (*place, "template"))
        if data is not common and (own := {"target", "features", "table"} & data.model_fields_set):
            what = "all stages read the same columns, written the same way"
            raise problem(what, f"write {min(own)} under data, not in a stage", (*place, min(own)))
        for name in ("train", "eval", "validation"):
            if name not in data.model_fields_set or not isinstance(getattr(data, name), list):
                continue
            sources = getattr(data, name)
            if any(s.streaming for s in sources):
                what = "what a table's columns are is learnt from all training rows, so none can be streamed"
                raise problem(what, "remove streaming", (*place, name))
            setattr(data, name, [as_table(s, common.target, common.features) for s in sources])
    if recipe.test_time is not None and recipe.test_time.data is not None:
        recipe.test_time.data = [as_table(s, common.target, common.features) for s in recipe.test_time.data]
    if common.table is None:
        common.table = TableSpec()


def _refuse(data: Any) -> None:
    """What is wrong with the columns that a recipe names."""
    features = data.features or []
    if twice := [n for i, n in enumerate(features) if n in features[:i]]:
        raise problem(f"the column '{twice[0]}' stands there twice", "name each once", ("features",))
    if data.target is not None and data.target in features:
        what = f"the column '{data.target}' is the target, and cannot be read to tell it"
        raise problem(what, "take it out of features", ("features",))
    for name in data.table.types if data.table is not None else ():
        if features and name not in features:
            what = f"types names '{name}', which is none of features"
            raise problem(what, "add it there, or take it out of types", ("table", "types"))
