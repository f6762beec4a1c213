"""Verbs that train: run and resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.commands.options import (
    JsonOption,
    NprocOption,
    QuietOption,
    RecipeArgument,
    RunArgument,
    SetOption,
    examples,
)

if TYPE_CHECKING:
    from tunewright.runs.adapters import AdaptersResult
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
    apart: Annotated[
        bool,
        typer.Option("--apart", help="adapters take forwards of their own: equal to runs alone in every bit"),
    ] = False,
    nproc: NprocOption = 1,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the base, train, measure again, and report."""
    from tunewright.errors import RecipeError
    from tunewright.recipe.adapters import lists_adapters
    from tunewright.runs.run import run as start
    from tunewright.runs.several import refuse

    if nproc > 1:
        more = [*(["--out", str(out)] if out is not None else []), *(x for s in set_ or [] for x in ("--set", s))]
        _in_processes(nproc, ["run", recipe, *more, *["--apart"] * apart], quiet, as_json)
    if lists_adapters(recipe):
        refuse("a recipe that lists adapters", recipe)
        from tunewright.runs.adapters import run as start_all

        _show_all(start_all(recipe, out, sets=set_ or [], quiet=quiet, json=as_json, joint=not apart), as_json)
        return
    if apart:
        remedy = "leave --apart out: this one lists none"
        raise RecipeError("--apart is for a recipe that lists adapters", where=recipe, remedy=remedy)
    _show(start(recipe, out, sets=set_ or [], quiet=quiet, json=as_json), as_json)


@examples(
    "tunewright resume runs/recipe",
    "tunewright resume runs/recipe --verify",
)
def resume(
    folder: RunArgument,
    verify: Annotated[bool, typer.Option("--verify", help="recompute the last steps and compare, bit for bit")] = False,
    nproc: NprocOption = 1,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Go on with a run that was stopped, from its last whole checkpoint."""
    from tunewright.recipe.adapters import lists_adapters
    from tunewright.runs.run import resume as go_on
    from tunewright.runs.several import refuse

    if nproc > 1:
        _in_processes(nproc, ["resume", str(folder), *["--verify"] * verify], quiet, as_json)
    if lists_adapters(folder / "recipe.yaml"):
        refuse("a run of several adapters", str(folder))
        from tunewright.runs import adapters

        if verify:
            adapters.verify(folder, quiet=quiet, json=as_json)
        else:
            _show_all(adapters.resume(folder, quiet=quiet, json=as_json), as_json)
        return
    finished = go_on(folder, verify=verify, quiet=quiet, json=as_json)
    if finished is not None:
        _show(finished, as_json)


def _in_processes(count: int, args: list[str], quiet: bool, as_json: bool) -> None:
    """Do a verb in several processes, and end with the first one's exit code."""
    from tunewright.runs.launching import launch
    from tunewright.runs.several import refuse

    refuse("--nproc")
    raise typer.Exit(launch([*args, *["--quiet"] * quiet, *["--json"] * as_json], count))


def _show_all(result: AdaptersResult, as_json: bool) -> None:
    """Print what became of each of several adapters."""
    if as_json:
        print(json.dumps(result.summary.to_json(), ensure_ascii=False))
    else:
        result.summary.show(result.folder)


def _show(result: Result, as_json: bool) -> None:
    """Print a finished run's figures: they are the result, however quiet the run was; of several processes the first
    prints them.
    """
    from tunewright.machine.group import present
    from tunewright.report import terminal

    if not present().first:
        return
    if as_json:
        print(json.dumps(json.loads(result.report.dumps()), ensure_ascii=False))  # one line, after those of steps
    else:
        terminal.show(result.report, result.folder)
