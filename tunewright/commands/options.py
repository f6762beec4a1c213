"""What several verbs take, and how a verb prints its result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from tunewright.commands import completing

Verb = TypeVar("Verb", bound=Callable[..., Any])

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="a recipe file, or the name of one that ships with the package (quickstart)",
        autocompletion=completing.recipes,
    ),
]
RunArgument = Annotated[Path, typer.Argument(metavar="DIR", help="a run's folder")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="override one value: train.seed=1, stages.0.budget.steps=24"),
]
NprocOption = Annotated[
    int, typer.Option("--nproc", metavar="N", min=1, help="processes on this machine that train together")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="print errors and the result only")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON on standard output")]


def show(value: Any, as_json: bool, text: Callable[[], str] | None = None) -> None:
    """Print a result: as JSON, or as text."""
    print(json.dumps(value, indent=2, ensure_ascii=False) if as_json or text is None else text())


EXAMPLES: dict[Callable[..., Any], tuple[str, ...]] = {}
"""Verb -> commands that its help shows."""


def examples(*commands: str) -> Callable[[Verb], Verb]:
    """Commands that a verb's help shows."""

    def note(verb: Verb) -> Verb:
        EXAMPLES[verb] = commands
        return verb

    return note


def below(verb: Callable[..., Any]) -> str:
    """What stands below a verb's help; typer ends a line at an empty one."""
    return "\n\n".join(["Examples:", *EXAMPLES[verb]])
