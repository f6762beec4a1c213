"""Verbs for a finished run: chat and export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunewright.commands.options import JsonOption, RunArgument, examples, show


@examples(
    "tunewright chat runs/recipe",
    "tunewright chat runs/recipe --json",
)
def chat(folder: RunArgument, as_json: JsonOption = False) -> None:
    """Talk to the base and the tuned model side by side."""
    from tunewright.finished.chat import chat as talk

    talk(folder, as_json=as_json)


@examples(
    "tunewright export runs/recipe",
    "tunewright export runs/recipe --out models/tickets",
    "tunewright export runs/recipe --to gguf --type q8_0",
    "tunewright export runs/recipe --to ollama --type q4_0 --out tickets-ollama",
    "tunewright export models/merged --to onnx --out merged-onnx --json",
)
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a run's folder; with --to also a model's")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="where to write it (default: into DIR)")] = None,
    to: Annotated[
        str, typer.Option(metavar="FORMAT", help="transformers, gguf, ollama, mlx, onnx or vllm-adapter")
    ] = "transformers",
    kind: Annotated[
        str | None, typer.Option("--type", help="of a GGUF's matrices: f16, q8_0 (default), q4_0, q4_k_m ...")
    ] = None,
    splitter: Annotated[
        str | None, typer.Option("--pre-tokenizer", metavar="NAME", help="llama.cpp's name of how text is split")
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="NAME", help="of a change made for each task, the one to write")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the tuned model for transformers or another program, its logits checked against the run's."""
    if to == "transformers":
        from tunewright.errors import RecipeError
        from tunewright.finished.export import export as write

        for flag, value in (("--type", kind), ("--pre-tokenizer", splitter)):
            if value is not None:
                raise RecipeError("a transformers folder has none", where=flag, remedy="write --to gguf beside it")
        exported = write(folder, out, task, quiet=as_json)
        if as_json:
            show(exported.to_json(), as_json)
        return
    from tunewright.shipping import formats

    shipped = formats.ship(folder, to, out, formats.Options(kind, splitter, task))
    show(shipped.to_json(), as_json, shipped.page)
