"""Verbs for a finished run: chat and export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunewright.commands.options import RunArgument, examples


@examples(
    "tunewright chat runs/recipe",
)
def chat(folder: RunArgument) -> None:
    """Talk to the base and the tuned model side by side."""
    from tunewright.finished.chat import chat as talk

    talk(folder)


@examples(
    "tunewright export runs/recipe",
    "tunewright export runs/recipe --out models/tickets",
)
def export(
    folder: RunArgument,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="where to write it (default: DIR/model)")] = None,
    task: Annotated[
        str | None, typer.Option(metavar="NAME", help="of a change made for each task, the one to write")
    ] = None,
) -> None:
    """Write the tuned model as a plain transformers folder, its logits checked against the run's."""
    from tunewright.finished.export import export as write

    write(folder, out, task)
