"""Verbs for many runs at once: list and prune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunewright import errors
from tunewright.commands.options import JsonOption, below, examples, show
from tunewright.commands.papers import ListsByDefault

Places = Annotated[
    list[Path] | None, typer.Argument(metavar="[DIR]...", help="folders of runs, or runs themselves (default: runs)")
]
ROOT = Path("runs")


@examples(
    "tunewright runs",
    "tunewright runs list runs other/runs --sort target",
)
def runs_list(
    places: Places = None,
    sort: Annotated[str, typer.Option(help="age, name, target, kept, drift, seconds or bytes")] = "age",
    as_json: JsonOption = False,
) -> None:
    """List runs: state, model, methods, target, kept, drift, time and disk use, newest first."""
    from tunewright.finished import folders, runs_page

    orders = ("age", "name", *folders.NUMBERS)
    if sort not in orders:
        raise errors.RecipeError(
            f"runs are not sorted by '{sort}'", where="--sort", remedy=errors.did_you_mean(sort, orders)
        )
    found = folders.ordered([folders.held(folder) for folder in folders.found(places or [ROOT])], sort)
    show([run.to_json() for run in found], as_json, lambda: runs_page.listed(found))


@examples(
    "tunewright runs prune",
    "tunewright runs prune runs --keep 3 --yes",
)
def runs_prune(
    places: Places = None,
    keep: Annotated[str, typer.Option(metavar="best|N", help="how many of the best runs keep their weights")] = "best",
    yes: Annotated[bool, typer.Option("--yes", help="remove it; without, it is only said what would go")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove weights of runs that are not the best of their kind, and checkpoints of finished ones. Figures stay."""
    from tunewright.finished import folders, pruning, runs_page

    if keep != "best" and not (keep.isdecimal() and 0 < int(keep) < 10**6):
        raise errors.RecipeError(f"'{keep}' is no number of runs", where="--keep", remedy="write best, or 1, 2, 3 ...")
    runs = [folders.held(folder) for folder in folders.found(places or [ROOT])]
    going = pruning.planned(runs, 1 if keep == "best" else int(keep))
    freed = sum(pruning.remove(one) for one in going if one.names) if yes else 0
    told = [{"folder": str(g.run.folder), "removes": g.names, "bytes": g.bytes, "stays_for": g.why} for g in going]
    show(
        {"removed": yes, "freed": freed, "runs": told}, as_json, lambda: runs_page.pruned(going, freed if yes else None)
    )


runs = typer.Typer(cls=ListsByDefault, help="List run folders, and remove what is not needed of them.")
runs.command("list", epilog=below(runs_list))(runs_list)
runs.command("prune", epilog=below(runs_prune))(runs_prune)
