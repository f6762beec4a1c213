"""`tunewright gate`: conditions on what was measured before, in a run's folder or in one that `measure` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunewright.errors import CheckpointError, FolderError, RecipeError
from tunewright.paired.result import Pair
from tunewright.recipe import Recipe
from tunewright.recipe.gate import Bound, bounds
from tunewright.report.gated import Gate, judge
from tunewright.report.schema import Report
from tunewright.runs.folder import RECIPE
from tunewright.runs.intact import is_altered


def gate(folder: Path, asked: Sequence[Bound] = ()) -> Gate:
    """The verdict on conditions, else on those of the run's own recipe.

    FolderError for a folder with no figures or an unfinished run's, CheckpointError for a report that was altered,
    RecipeError where no condition is written
    anywhere, MethodError for a figure that was not measured.
    """
    if (folder / Pair.file).is_file() or folder.name == Pair.file:
        return _judged(asked, Pair.load(folder), folder)
    if not folder.is_dir():
        raise FolderError("no such folder", where=str(folder), remedy="name a run's folder")
    report = Report.load(folder)
    if is_altered(folder):
        raise CheckpointError(
            f"{Report.file} was altered after the run wrote it",
            where=str(folder),
            remedy="put the file back, or measure again: `tunewright measure` reads the run itself",
        )
    if report.run.status != "finished":
        raise FolderError(
            f"this run is {report.run.status}, and has no last figures",
            where=str(folder),
            remedy=f"finish it with `tunewright resume {folder}`",
        )
    if not asked and (folder / RECIPE).exists():
        asked = bounds(Recipe.load(folder / RECIPE).gate or {})
    return _judged(asked, report, folder)


def _judged(asked: Sequence[Bound], figures: Report | Pair, folder: Path) -> Gate:
    if not asked:
        raise RecipeError(
            "there is no condition to judge by",
            where=str(folder),
            remedy="write --require 'target >= 0.85', or gate: {target: '>= 0.85'} in the recipe",
        )
    return judge(asked, figures)
