"""The verb fit-laws."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunewright.commands.options import JsonOption, examples


@examples(
    "tunewright fit-laws runs/a-10k runs/b-10k runs/c-10k runs/a-20k runs/b-20k runs/c-20k",
    "tunewright fit-laws runs/a runs/b runs/c --hold-out runs/d --tokens 1M --tokens 4M --tolerance 0.02",
)
def fit_laws(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS", help="folders of finished runs of one base and data")],
    hold_out: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="a run to judge laws on (default: those of the largest budget); repeatable"),
    ] = None,
    tokens: Annotated[
        list[str] | None,
        typer.Option(metavar="N", help="a budget to foresee, as 1M (default: 2 and 4 times); repeatable"),
    ] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="NAME", help="the kept text that is the general one, where there are several")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="how far the general loss may rise, nats per token")] = 0.05,
    as_json: JsonOption = False,
) -> None:
    """Fit laws of continual pre-training over finished runs: losses at more tokens, and which mixture keeps the base.

    Judged on runs that they have not seen, with intervals.
    """
    from tunewright.catalogue.numbers import parse_number
    from tunewright.errors import RecipeError
    from tunewright.laws.fit_laws import fit_laws as fit

    budgets = []
    for written in tokens or []:
        number = parse_number(written)
        if number is None or number < 1:
            raise RecipeError(f"'{written}' is no number of tokens", where="--tokens", remedy="write 1M or 250k")
        budgets.append(int(number))
    found = fit(runs, hold_out=hold_out or [], tokens=budgets, keep=keep, tolerance=tolerance)
    print(found.model_dump_json(indent=2) if as_json else str(found), end="\n" if as_json else "")
