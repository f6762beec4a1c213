"""By what models of a merge read their rows, beside their weights: how a table is read, and what a policy's inputs are
standardised by. A folder says it in a file or in its config; of a run that left a change, its recipe does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.errors import ModelError, RecipeError
from tunewright.loading.tables import layout_in, task_in
from tunewright.weights.source import Source, Tuned

FACTS = ("action_space", "state_mean", "state_std", "return_scale", "action_std", "context_steps")
"""Keys of a policy's config that its inputs hang on (`tasks._policies.FACTS`, which needs torch)."""
RECIPE = "recipe.yaml"


def run_of(change: Path) -> Path | None:
    """The folder of the run that left an adapter or a saved change; None of one that no run left."""
    return next((f for f in (change, change.resolve().parent) if (f / RECIPE).is_file()), None)


def note(source: Tuned) -> None:
    """Put what a run says of its rows beside the change that it left: into the config, and as the table's layout."""
    from tunewright.recipe import Recipe  # takes a second, and folders that are whole do not need it

    run = run_of(source.folder)
    try:
        recipe = Recipe.load(run / RECIPE) if run is not None else None
    except RecipeError:  # of another version, or of several adapters: the change is read all the same
        recipe = None
    if recipe is None:
        return
    spec, table = recipe.data.trajectories, recipe.data.table
    if spec is not None:
        said = {**spec.model_dump(exclude={"stride", "context"}), "context_steps": spec.context}
        source.config = {**source.config, **{n: v for n, v in said.items() if v is not None}}
    if table is not None and (layout := table.layout()) is not None:
        source.table = {"task": recipe.task, **layout}


def adopt(base: Source | None, models: Sequence[Source]) -> None:
    """What the base's config does not say of a policy's inputs, as all models have it: a base plays nothing itself."""
    if base is None:
        return
    for name in FACTS:
        first, *others = [m.config.get(name) for m in models if m is not base] or [None]
        if base.config.get(name) is None and first is not None and all(other == first for other in others):
            base.config = {**base.config, name: first}


def layout_of(source: Source) -> dict[str, Any] | None:
    """How a model reads a table, `task` beside it; None of a model that reads none. ModelError for a broken file."""
    if source.table is not None:
        return source.table
    folder = getattr(source, "base", source).folder
    task = task_in(folder)
    layout = None if task is None else layout_in(folder, task)
    return None if layout is None else {"task": task, **layout}


def agreed_layout(models: Sequence[Source], *, allow: bool) -> tuple[dict[str, Any] | None, list[str]]:
    """The layout that all models of a merge read a table by, and notes. ModelError where two read otherwise; with
    `allow` the first model's is taken, and a note says so.
    """
    layouts = [layout_of(m) for m in models]
    first = layouts[0] if layouts else None
    for model, layout in zip(models[1:], layouts[1:], strict=True):
        if layout == first:
            continue
        what = f"it reads {_named(layout)}, and '{models[0].ref}' {_named(first)}{_apart(first, layout)}"
        if not allow:
            raise ModelError(
                what,
                where=model.ref,
                remedy="merge models that were adapted from one exported model, which keeps how a table is read; to "
                "merge them all the same, with the first model's: --allow-crimes, or allow_crimes: true in the file",
            )
        return first, [f"'{model.ref}': {what}; the result reads as the first"]
    return first, []


def _named(layout: Mapping[str, Any] | None) -> str:
    return "no table" if layout is None else "a table"


def _apart(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> str:
    """What two layouts say otherwise, as far as the first such key and column."""
    if a is None or b is None:
        return ""
    key = next(k for k in (*a, *b) if a.get(k) != b.get(k))
    if key != "columns":
        return f" otherwise: {key} is {b.get(key)}, there {a.get(key)}"
    for mine, theirs in zip(a[key], b[key], strict=False):
        if told := [k for k in mine if mine[k] != theirs.get(k)]:
            of = f"column '{theirs.get('name')}'"
            return f" otherwise: of {of} {told[0]} is {theirs.get(told[0])}, there {mine[told[0]]}"
    return f" otherwise: it has {len(b[key])} columns, and that {len(a[key])}"
