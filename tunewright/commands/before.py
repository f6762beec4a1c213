"""Verbs that are asked before a run: plan, check, suggest and init."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunewright.commands import completing
from tunewright.commands.options import JsonOption, RecipeArgument, SetOption, examples, show


@examples(
    "tunewright plan recipe.yaml",
    "tunewright plan quickstart --set stages.0.budget.steps=24",
    'tunewright plan recipe.yaml --on "8x H100 80GB"',
)
def plan(
    recipe: RecipeArgument,
    set_: SetOption = None,
    on: Annotated[
        str | None,
        typer.Option(metavar="MACHINES", help='reckon on paper what it takes there, such as "8x H100 80GB"'),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Before anything is trained: will it fit, how long, what exactly is trained."""
    from tunewright.errors import RecipeError
    from tunewright.planning import plan_page
    from tunewright.planning.plan import plan as foresee
    from tunewright.recipe.adapters import lists_adapters

    if lists_adapters(recipe):
        from tunewright.planning.adapters import plan_adapters

        if on is not None:
            raise RecipeError(
                "adapters of one recipe are trained in one process", where="--on", remedy="plan one adapter's recipe"
            )
        all_of_them = plan_adapters(recipe, sets=set_ or [], quiet=as_json)
        show(all_of_them.to_json(), True) if as_json else all_of_them.show(Path(recipe))
        return
    foreseen = foresee(recipe, sets=set_ or [], on=on, quiet=as_json)
    if as_json:
        show(foreseen.to_json(), as_json)
    else:
        plan_page.show(foreseen, Path(recipe))


@examples(
    "tunewright check recipe.yaml",
    "tunewright check recipe.yaml --clean cleaned",
    "tunewright check recipe.yaml --card data-card.md",
)
def check(
    recipe: RecipeArgument,
    set_: SetOption = None,
    clean: Annotated[
        Path | None, typer.Option(metavar="DIR", help="write the good rows and a quarantine file there")
    ] = None,
    card: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write a data card there; what you wrote in it stays")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a recipe and its data, row by row."""
    from tunewright.planning import check as checking
    from tunewright.recipe.adapters import lists_adapters

    if lists_adapters(recipe):
        from tunewright.planning.adapters import check_adapters

        if card is not None:
            from tunewright.errors import RecipeError

            raise RecipeError(
                "a data card is of one recipe, and this one lists adapters",
                where="--card",
                remedy="write a recipe for each adapter whose data are to have a card",
            )
        each = check_adapters(recipe, sets=set_ or [], clean=clean)
        show(each.to_json(), True) if as_json else each.show()
        if not each.ok:
            raise typer.Exit(each.code)
        return
    checked = checking.check_recipe(recipe, sets=set_ or [], clean=clean, card=card)
    if as_json:
        show(checked.to_json(), as_json)
    else:
        checking.show(checked.report, checked.written)
        if checked.blanks:
            typer.echo(f"yours to write in {card}: {', '.join(checked.blanks)}")
    if not checked.ok:
        raise typer.Exit(checked.code)


@examples(
    "tunewright suggest recipe.yaml",
    "tunewright suggest recipe.yaml --memory 8GB",
)
def suggest(
    recipe: RecipeArgument,
    set_: SetOption = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="memory to train in: 8GB, 24GiB (default: this machine's)")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say which methods a recipe's model and rows allow, what each trains, what was shown of it, what to compare."""
    from tunewright.compare import suggest_page
    from tunewright.compare.suggesting import suggest as find
    from tunewright.weights.write import size_of

    found = find(recipe, sets=set_ or [], memory=None if memory is None else size_of(memory, "--memory"))
    if as_json:
        show({**found.to_json(), "command": found.command(str(recipe))}, as_json)
    else:
        suggest_page.show(found, recipe)


@examples(
    "tunewright init HuggingFaceTB/SmolLM2-135M-Instruct tickets.jsonl",
    "tunewright init ./model rows.jsonl --task text-classification --out tickets.yaml",
    "tunewright init minilm-l6 customers.csv --target churned --type zip=category",
)
def init(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="built-in name, hub id or local folder")],
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="a file or folder of rows, an address, or a data set of the hub")
    ],
    task: Annotated[
        str | None,
        typer.Option(help="the hub's name of the task (default: by the rows' shape)", autocompletion=completing.tasks),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="the column that a table's others tell (default: by its name)"),
    ] = None,
    type_: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            metavar="COLUMN=KIND",
            help="what a table's column holds, where its values say it wrongly: number, category, date, text",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="where to write the recipe")] = Path("recipe.yaml"),
    as_json: JsonOption = False,
) -> None:
    """Write a commented recipe for a model, a data file and a task."""
    from tunewright.planning.init import write_recipe
    from tunewright.planning.init_tables import Said

    written = write_recipe(model, data, task, out, Said.of(target, type_ or []))
    following = [f"tunewright {verb} {out}" for verb in ("check", "plan", "run")]
    told = {"recipe": str(out), "task": written.task, "next": following}
    show(told, as_json, lambda: f"{out} is written. Next: {'; '.join(following)}")
