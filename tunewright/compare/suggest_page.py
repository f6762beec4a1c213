"""A suggestion on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewright.compare.compared import said
from tunewright.compare.suggested import Candidate, Evidence, SuggestionFigures
from tunewright.report import words
from tunewright.report.terminal_cells import clean


def show(found: SuggestionFigures, recipe: Path | str = "recipe.yaml", console: Console | None = None) -> None:
    """Print what can be used, what was shown of it, what cannot, and the comparison that would tell which."""
    out = console or Console(highlight=False, emoji=False)
    about = f": {words.count(found.parameters)} parameters; {found.task} on {found.rows:,} rows"
    memory = f"; {words.size(found.memory)} of memory" if found.memory else ""
    out.print(Text.assemble((clean(found.model), "bold"), about + memory), soft_wrap=True)
    out.print()
    out.print(_table(found.candidates, found.parameters))
    out.print(
        Text(
            "trains: numbers that train at the first step, new heads not counted ('?': known once weights are read; "
            "`tunewright plan` counts); state: their gradients and Adam's moments; folds: becomes a plain model; "
            "4 bits: also on a quantised base; known here: what came of testing its headline claim (docs/claims.md), "
            "and by how many points it ended from lora in our own comparison, * where that is no chance "
            "(docs/family.md)",
            style="dim",
        )
    )
    if found.refused:
        out.print()
        out.print(Text("Not with this recipe", style="bold"))
        for r in found.refused:
            out.print(Text.assemble(f"{r.name}: ", (clean(r.why), "dim")))
    out.print()
    command = found.command(str(recipe))
    if command is not None:
        out.print(Text("Which is best here nobody knows before it is tried on these rows:"))
        out.print(command, markup=False, soft_wrap=True)
    elif found.stages > 1:
        few = ", ".join(found.compare)
        out.print(
            f"Reckoned for the first of {found.stages} stages. `tunewright compare` takes one stage: write a recipe of "
            f"it alone, and compare {few}.",
            markup=False,
        )
    else:
        out.print(Text("Too few methods can be used to compare any.", style="yellow"))


def _table(candidates: Sequence[Candidate], parameters: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("method", no_wrap=True)
    for heading in ("trains", "share", "state"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("folds")
    table.add_column("4 bits")
    table.add_column("known here", overflow="fold")
    for c in candidates:
        if c.trains is None:
            counted = ("?", "", "")
        else:
            counted = (words.count(c.trains), f"{c.trains / parameters:.2%}", words.size(c.state))
        marks = ("yes" if c.folds else "no", "yes" if c.quantised else "no")
        claims = (
            "; ".join(filter(None, (_claims(c.headlines), said(c.compared)))) if c.fits else "does not fit into memory"
        )
        table.add_row(c.name, *counted, *marks, claims, style="" if c.fits else "dim")
    return table


def _claims(evidence: Sequence[Evidence]) -> str:
    """What came of the headline claims; those about a part are in the JSON."""
    return ", ".join(f"{e.verdict} ({e.scale})" for e in evidence)
