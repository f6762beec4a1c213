"""Verbs that train: run and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunewright.commands.options import JsonOption, QuietOption, RecipeArgument, RunArgument, SetOption, examples


@examples(
    "tunewright run quickstart",
    "tunewright run recipe.yaml --out runs/first --set train.seed=1",
)
def run(
    recipe: RecipeArgument,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="the run's folder (default: runs/NAME, runs/NAME-2, ...)")
    ] = None,
    set_: SetOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the base, train, measure again, and report."""
    from tunewright.runs.run import run_recipe

    run_recipe(recipe, set_ or [], out, quiet=quiet, json=as_json)


@examples(
    "tunewright resume runs/recipe",
    "tunewright resume runs/recipe --verify",
)
def resume(
    folder: RunArgument,
    verify: Annotated[bool, typer.Option("--verify", help="recompute the last steps and compare, bit for bit")] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Go on with a run that was stopped, from its last whole checkpoint."""
    from tunewright.runs.run import resume as go_on

    go_on(folder, verify=verify, quiet=quiet, json=as_json)
