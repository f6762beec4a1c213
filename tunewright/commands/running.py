"""Verbs that train: run and resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.commands.options import JsonOption, QuietOption, RecipeArgument, RunArgument, SetOption, examples

if TYPE_CHECKING:
    from tunewright.runs.result import Result


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
    from tunewright.runs.run import run as start

    _show(start(recipe, out, sets=set_ or [], quiet=quiet, json=as_json), as_json)


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

    finished = go_on(folder, verify=verify, quiet=quiet, json=as_json)
    if finished is not None:
        _show(finished, as_json)


def _show(result: Result, as_json: bool) -> None:
    """Print a finished run's figures: they are the result, however quiet the run was."""
    from tunewright.report import terminal

    if as_json:
        print(json.dumps(json.loads(result.report.dumps()), ensure_ascii=False))  # one line, after those of steps
    else:
        terminal.show(result.report, result.folder)
