"""The verb tune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunewright.commands.options import JsonOption, QuietOption, RecipeArgument, SetOption, examples, show


@examples(
    "tunewright tune recipe.yaml",
    "tunewright tune recipe.yaml --minutes 20 --write",
)
def tune(
    recipe: RecipeArgument,
    trials: Annotated[int, typer.Option(min=2, help="runs at most")] = 16,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="begin no run later than this; the recipe's own is always run")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="runs of each setting, each with other rows held out")] = 1,
    write: Annotated[bool, typer.Option("--write", help="write the best values into RECIPE itself")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="where to write them (default: RECIPE with .tuned before .yaml)")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="runs side by side (default: as cores and memory allow)")
    ] = None,
    set_: SetOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Look for a better learning rate, length of training and batch, on rows held out from training.

    Many short runs, of which the best go on longer; data.eval is never read. Stopped anywhere, the same command goes
    on.
    """
    from tunewright.runs import progress
    from tunewright.trials import tune_page
    from tunewright.trials.tuned_recipe import tune_recipe

    result = tune_recipe(
        recipe,
        trials=trials,
        minutes=minutes,
        seeds=seeds,
        write=write,
        out=out,
        workers=workers,
        sets=set_ or [],
        say=(lambda text: None) if quiet or as_json else progress.say,
    )
    if as_json:
        show(result.to_json(), as_json)
    else:
        tune_page.show(result)
