"""Fills in what a recipe leaves to the rule (`training/defaults.py`), from the rows as they are encoded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunewright.contract.batch import Row
from tunewright.contract.method import Method
from tunewright.contract.task import Task
from tunewright.data.order import sizes
from tunewright.recipe import Budget, Recipe, StageSpec
from tunewright.runs.session import StageInputs
from tunewright.tasks._parts import DETECTION, FEATURES
from tunewright.training.defaults import Facts, Given, Kind, Setting, derive

LOOKED_AT = 2000
"""Rows whose sizes are added up; of more, as many evenly spaced ones speak for all."""
STREAMED = 1000
"""How many times as long as its first rows a streamed source is taken to be: long, by any measure of the rule."""
_WIDTHS = ("hidden_size", "d_model", "n_embd", "hidden_dim")

Settings = dict[str, dict[str, Setting]]
"""Stage -> what the rule gave it."""


def fill(recipe: Recipe, parts: Sequence[StageInputs], task: Task, config: Any) -> tuple[Recipe, Settings]:
    """The recipe with every learning rate, batch, warm-up and length of training written, and what the rule gave.

    Values of a recipe of one stage go where all stages have theirs; of several, each stage has its own.
    """
    width = width_of(config)
    found = {part.spec.name: derive(facts_of(part, task, width, _fresh(recipe, part)), _given(part)) for part in parts}
    if not any(found.values()):
        return recipe, found
    filled = recipe.model_copy(deep=True)
    filled._base, filled._out, filled._notes = recipe._base, recipe._out, recipe._notes
    for stage in filled.stages:
        _write(filled, stage, found[stage.name])
    return filled, found


def _fresh(recipe: Recipe, part: StageInputs) -> bool:
    """Whether a stage's weights are random when it begins."""
    return recipe.model.fresh and (part.spec.start or "base") == "base"


def _write(recipe: Recipe, stage: StageSpec, settings: Mapping[str, Setting]) -> None:
    values = {name: setting.value for name, setting in settings.items()}
    if "batch_tokens" in values:
        values["batch_tokens"] = int(values["batch_tokens"])
    if "epochs" in values:
        stage.budget = Budget(epochs=values.pop("epochs"))
    if not values:
        return
    if len(recipe.stages) == 1 and stage.train is None:
        recipe.train = recipe.train.model_copy(update=values)
        return
    own = stage.train if stage.train is not None else _override(stage)
    stage.train = own.model_copy(update=values)


def _override(stage: StageSpec) -> Any:
    """An empty `train` section of a stage's own."""
    return StageSpec.model_validate({"name": stage.name, "methods": ["lora"], "train": {}}).train


def _given(part: StageInputs) -> Given:
    train = part.train
    return Given(train.learning_rate, train.batch_tokens, train.warmup_steps, part.spec.budget.limited)


def facts_of(part: StageInputs, task: Task, width: int | None, fresh: bool = False) -> Facts:
    """What the rule goes by, of a stage."""
    methods = [method for _, method in part.methods]
    rows = part.rows.rows
    many = STREAMED if part.rows.streamed else 1
    found = _sizes(rows)
    return Facts(
        task=task.name,
        kind=_kind(task, methods, rows[0]),
        rows=len(rows) * many,
        tokens=round(float(found.mean()) * len(rows)) * many,
        sizes=np.random.default_rng(0).permutation(found)[:LOOKED_AT].tolist(),
        width=width,
        fresh=fresh,
        together=task.couples == "batch",
        **said_by([type(method) for method in methods]),
    )


def said_by(methods: Sequence[type[Method]]) -> dict[str, Any]:
    """What a stage's methods say of learning rates, as `Facts` takes it."""
    return {
        "rates": [m.learning_rates for m in methods if m.learning_rates],
        "adds": any({"attach", "wrap"} & set(m.slots()) for m in methods),
        "once": any(m.alone for m in methods),
        "factor": math.prod(m.rate_factor for m in methods),
        "by_width": sum(m.rate_by_width for m in methods),
        "by_rows": sum(m.rate_by_rows for m in methods),
    }


def _kind(task: Task, methods: Sequence[Method], first: Row) -> Kind:
    if task.draws or any(
        task.is_a(name) for name in ("image-classification", "image-segmentation", DETECTION, FEATURES)
    ):
        return "pictures"
    if task.labelled or task.outputs:
        return "classes"
    if any(m.pairs for m in methods) or task.scores and "rejected_ids" in first.fields:
        return "pairs"
    if task.embeds:
        return "pairs"
    if task.scores:
        return "classes"
    return "plain text" if first.fields.get("kind", "plain") in ("plain", "mask") else "answers"


def _sizes(rows: Sequence[Row]) -> np.ndarray:
    """Tokens of each row; of many that do not know their sizes, of evenly spaced ones."""
    if hasattr(rows, "lengths"):
        return np.asarray(sizes(rows), dtype=np.int64)
    step = max(1, len(rows) // LOOKED_AT)
    return np.array([rows[i].size for i in range(0, len(rows), step)], dtype=np.int64)


def width_of(config: Any) -> int | None:
    """Width of the model's hidden states, as its config names it; none where it names none."""
    for part in (config, getattr(config, "text_config", None), getattr(config, "vision_config", None)):
        for name in _WIDTHS:
            value = getattr(part, name, None)
            if isinstance(value, int) and value > 0:
                return value
    return None


def alone(parts: Sequence[StageInputs], task: Task) -> list[str]:
    """What to say of stages whose steps hold about one row each, where a row is told from the others of its step."""
    out = []
    for part in parts if task.couples == "batch" else ():
        objectives = [method for _, method in part.methods if "objective" in type(method).slots()]
        if objectives and all(method.couples != "batch" for method in objectives):
            continue
        size, batch = float(_sizes(part.rows.rows).mean()), part.train.batch_tokens
        if batch is not None and (batch < 2 * size or not part.rows.streamed and len(part.rows.rows) == 1):
            what = f"of {batch:,} tokens holds about one row of {size:,.0f}" if size > 1 else "holds one picture"
            out.append(f"a step {what}, which has nothing to be told from: raise train.batch_tokens")
    return out
