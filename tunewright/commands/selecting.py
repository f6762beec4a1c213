"""The verb select."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunewright.commands import completing
from tunewright.commands.options import JsonOption, SetOption, examples


@examples(
    "tunewright select recipe.yaml --out chosen",
    "tunewright select pool.jsonl --with near-duplicate,length:least=5 --out chosen",
    "tunewright select pool.jsonl --with dsir --target like.jsonl --keep 10% --out chosen",
    "tunewright select pool.jsonl --with perplexity:high=0.5 --model HuggingFaceTB/SmolLM2-135M-Instruct --out chosen",
)
def select(
    rows: Annotated[
        list[str], typer.Argument(metavar="RECIPE|FILE...", help="a recipe that selects, or files of rows")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="a new folder for rows, scores and counts")],
    using: Annotated[
        str | None, typer.Option("--with", metavar="A,B,...", help="selectors in order: names, or NAME:param=value")
    ] = None,
    target: Annotated[str | None, typer.Option(metavar="FILE", help="rows like those to be learnt")] = None,
    keep: Annotated[str | None, typer.Option(metavar="AMOUNT", help="a share, 10%, or a number of rows")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="what reads rows, where a selector asks")] = None,
    task: Annotated[
        str | None, typer.Option(help="of the model (default: by the rows' shape)", autocompletion=completing.tasks)
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="NAME=COLUMN", help="where rows have it: prompt=question")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of what is drawn")] = 0,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose rows, of a recipe or of files alone: the rows kept, and scores with reasons of all, without training."""
    from tunewright.commands.options import show
    from tunewright.errors import DataError, RecipeError
    from tunewright.paired.request import columns, in_flags
    from tunewright.planning import selecting, subset

    first = rows[0]
    if using is None:
        flags = {"--target": target, "--keep": keep, "--model": model, "--task": task, "--column": column}
        for flag, value in {**flags, "--seed": seed, first: rows[1:]}.items():
            if value:
                raise RecipeError(
                    "is for files of rows, and no selector is named for them",
                    where=flag,
                    remedy="add --with dsir, or another; a recipe says it itself (or --set data.validation=...)",
                )
        found = selecting.select_of_recipe(first, out, sets=set_ or [])
    elif set_:
        raise RecipeError("is for a recipe", where="--set", remedy="write parameters as --with dsir:smoothing=1")
    else:
        try:
            found = selecting.select_of_pool(
                rows,
                using,
                out,
                target=target,
                keep=keep,
                model=model,
                task=task,
                columns=columns(column or []),
                seed=seed,
            )
        except DataError as e:  # what is said of a recipe's keys, said of flags
            e.what, e.remedy = in_flags(e.what, "files"), in_flags(e.remedy or "", "files") or None
            raise
    show(found.to_json(), True) if as_json else subset.show(found)
