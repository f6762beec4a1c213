"""The verb compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunewright.commands.options import JsonOption, QuietOption, RecipeArgument, SetOption, examples


@examples(
    "tunewright compare recipe.yaml --methods lora,hft,full --seeds 8 --budget tokens=200k --tune",
    "tunewright compare recipe.yaml --methods lora:rank=8,lora:rank=64,own.yaml",
    "tunewright compare recipe.yaml --methods lora,hft,lift,corda,full --seeds 16 --race",
    "tunewright compare recipe.yaml --select dsir,random,none --seeds 8 --budget tokens=200k --tune",
)
def compare(
    recipe: RecipeArgument,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods", metavar="A,B,...", help="names, NAME:param=value, A+B together, or files with `methods:`"
        ),
    ] = None,
    select: Annotated[
        str | None,
        typer.Option("--select", metavar="A,B,...", help="selectors of rows instead, A+B in order; none: all rows"),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="runs of each method")] = 8,
    budget: Annotated[
        str | None,
        typer.Option(metavar="KIND=AMOUNT", help="of each run: tokens=200k, or steps, epochs, seconds, flops"),
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="choose each method's learning rate on validation rows first")
    ] = False,
    race: Annotated[
        bool, typer.Option("--race", help="look after every seed: what is shown to be behind runs no further")
    ] = False,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="run on a Ray cluster: host:port, ray://host:port or local")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="the comparison's folder (default: runs/compare-NAME); what is done there is kept"
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="runs side by side (default: as cores and memory allow)")
    ] = None,
    set_: SetOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare methods, or selectors of rows, under one budget over seeds: which gains most, loses least, costs least.

    Stopped anywhere, the same command goes on.
    """
    from tunewright.compare import arms, comparison
    from tunewright.recipe import Recipe
    from tunewright.report.compare import show

    loaded = Recipe.load(recipe, set_ or [])
    each = arms.parse_budget(budget, loaded)
    compared = comparison.compare(
        loaded,
        arms.methods_or_selectors(methods, select, loaded, each),
        seeds=seeds,
        budget=each,
        tune=tune,
        race=race,
        cluster=cluster,
        out=out,
        workers=workers,
        quiet=quiet or as_json,
    )
    if as_json:
        print(compared.model_dump_json(indent=2))
    else:
        show(compared, compared.folder)
