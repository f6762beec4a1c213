"""What `check` takes is run: methods on models that are no language models, which once passed a check and ended a run
with a traceback or were refused in the middle of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunewright import catalogue
from tunewright.conformance import task_next_scale
from tunewright.conformance.task_case import TaskCase
from tunewright.conformance.task_examples import example_of
from tunewright.contract.combining import serves
from tunewright.contract.slot import TRAINING_SLOTS
from tunewright.errors import TunewrightError
from tunewright.pieces.sublayers import parts_of
from tunewright.planning.check import check_recipe
from tunewright.recipe import Recipe
from tunewright.runs.assemble import assemble
from tunewright.runs.run import run
from tunewright.tasks import get_task

FORECASTS, BOXES, TABLE, PLAYS = (
    "time-series-forecasting",
    "object-detection",
    "tabular-classification",
    "reinforcement-learning",
)


def of_method(name: str) -> list[Any]:
    """A recipe's methods: one, beside what it cannot do without."""
    beside = getattr(catalogue.load_method(name), "conformance_beside", {})
    return [*({n: p} for n, p in beside.items()), name]


def agree(task: str, name: str, out: Path) -> str:
    """What a check and a run of one step say alike: "ok", or why the method is refused. Anything but an error of ours
    goes through.
    """
    case = TaskCase(task, example_of(task))
    tree = {**case.recipe_tree(), "methods": of_method(name), "budget": {"steps": 1}}
    tree |= {"model": str(case.folder / "base")}
    tree["data"] |= {role: str(case.folder / tree["data"][role]) for role in ("train", "eval")}
    recipe = Recipe.model_validate(tree)
    try:
        errors = check_recipe(recipe).report.errors
    except TunewrightError as error:
        errors = [error]
    try:
        run(recipe, out=out, quiet=True)
    except TunewrightError as error:
        assert errors and errors[0].what == error.what, f"check says {errors}, and the run: {error}"
        return error.what
    assert not errors, f"check refuses what runs: {errors}"
    return "ok"


@pytest.mark.parametrize(
    ("task", "name", "says"),
    [
        (FORECASTS, "bottleneck-adapters", "ok"),
        (FORECASTS, "bert2bert", "the config makes it"),
        (FORECASTS, "loreft", "a window of a series has none"),
        (PLAYS, "telly", "ok"),
        (PLAYS, "pela", "no plain linear layer"),
        (BOXES, "ssf", "ok"),
        (TABLE, "pela", "ok"),
    ],
)
def test_a_check_and_a_run_say_the_same(task: str, name: str, says: str, tmp_path: Path) -> None:
    assert says in agree(task, name, tmp_path / "out")


def test_a_blocks_parts_are_the_same_in_shapes_and_in_values() -> None:
    """What scales the states of a next-scale model by the text is no part of its feed-forward layers."""
    name = "unconditional-image-generation"
    case = TaskCase(name, task_next_scale.example_of(name))
    for weights in (False, True):
        adapted = assemble(case.recipe(), weights=weights).adapted
        mlp = parts_of(adapted.model, adapted.structure)[0].mlp
        assert mlp is not None
        assert (mlp.first, mlp.last) == ("next_scale.blocks.0.fc1", "next_scale.blocks.0.fc2")


DATA_DECIDE = ("found no site to attach to", "they are not one a block")
"""What only values and rows show: `spt` by its sensitivities, `telly` by the states of a finished stage."""


@pytest.mark.slow
@pytest.mark.parametrize("task", [FORECASTS, BOXES, TABLE, PLAYS])
def test_no_method_passes_a_check_and_ends_a_run(task: str, tmp_path: Path) -> None:
    wrong = []
    for name in catalogue.entries():
        method = catalogue.load_method(name)
        if not set(method.slots()) & set(TRAINING_SLOTS) or not serves(method, get_task(task)):
            continue
        try:
            agree(task, name, tmp_path / name)
        except Exception as error:  # noqa: BLE001
            wrong += (
                [] if any(why in str(error) for why in DATA_DECIDE) else [f"{name}: {type(error).__name__}: {error}"]
            )
    assert not wrong, "\n".join(wrong)
