"""The verb merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunewright.commands import completing
from tunewright.commands.options import JsonOption, examples, show


@examples(
    "tunewright merge a b --method linear --out merged",
    "tunewright merge a b --method ties --density 0.2 --base base --out merged",
    "tunewright merge mergekit.yaml --out merged",
)
def merge(
    context: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="folders, hub ids, adapters, runs; or one file in mergekit's form"),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="where the result is written")],
    method: Annotated[
        str | None, typer.Option(help="linear, ties, slerp ...; its parameters are flags: --density 0.2")
    ] = None,
    base: Annotated[str | None, typer.Option(help="the models' common base")] = None,
    dtype: Annotated[str | None, typer.Option(help="bfloat16, float16 or float32 (default: as stored)")] = None,
    kind: Annotated[
        str, typer.Option("--as", help="model; delta: what differs from the base; adapter: of adapters")
    ] = "model",
    shard_size: Annotated[str, typer.Option(help="largest file of the result")] = "5GB",
    seed: Annotated[int, typer.Option(help="of methods that draw")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="default: every core")] = None,
    data: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="rows, for methods that learn")] = None,
    task: Annotated[str, typer.Option(help="those rows' task", autocompletion=completing.tasks)] = "text-generation",
    then: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STEP", help="an edit of the merged change: lines, or '{lines: {alpha: merge, beta: 0.5}}'"
        ),
    ] = None,
    allow_crimes: Annotated[
        bool,
        typer.Option("--allow-crimes", help="merge models whose config.json computes otherwise all the same"),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Merge models into one: `tunewright merge a b --method ties --density 0.2 --base B --out DIR`."""
    from dataclasses import asdict

    from tunewright.weights import command

    flags = next((i for i, m in enumerate(models) if m.startswith("--")), len(models))
    given = [*models[flags:], *context.args]
    more = {
        "shard_size": shard_size,
        "seed": seed,
        "threads": threads,
        "data": data or (),
        "task": task,
        "then": then or (),
        "allow_crimes": allow_crimes,
    }
    merged = command.run(models[:flags], given, out, method=method, base=base, dtype=dtype, kind=kind, **more)
    show({**asdict(merged), "folder": str(merged.folder)}, as_json, lambda: command.page(merged))
