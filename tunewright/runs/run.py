"""Run a recipe from start to report, or go on with a run that was stopped.

The folder, its lock and the recipe exist before torch is imported, so that `resume` works from then on. What is done
is in `progress.json` and in the folders of finished stages; everything else is done again, to the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunewright.errors import FolderError, Interrupted, TunewrightError
from tunewright.recipe import Recipe
from tunewright.recipe.given import RecipeLike, given
from tunewright.runs import several
from tunewright.runs.finishing import finish, now
from tunewright.runs.folder import LOCK, RECIPE, RunFolder, discard_if_empty, locked, new_folder
from tunewright.runs.progress import Screen, Silent
from tunewright.runs.result import Result
from tunewright.runs.verifying import verify as verify_run
from tunewright.runs.work import Work


def run(
    recipe: RecipeLike,
    out: Path | str | None = None,
    *,
    sets: Sequence[str] = (),
    quiet: bool = False,
    json: bool = False,
    figures_only: bool = False,
) -> Result:
    """Run a recipe. Writes `out`, or runs/<name>, runs/<name>-2 ...; returns the folder and the report.

    `sets`: `key.path=value` over the recipe's values. `quiet`: no progress. `json`: progress as JSON on standard
    output.

    `figures_only`: for trials, which are thrown away once they are read. No page, no answers and few shots, no choice
    among labels (unless a probe reads it); the last stage is not saved for later stages. The figures are the same.
    """
    with several.joined() as group:
        told = given(recipe, sets)
        screen = Screen(quiet=quiet, json=json) if group.first else Silent()
        own = told if group.first else several.quietly(told)
        place = Path(out) if out is not None else told.out
        return several.together(group, lambda folder: _begin(own, folder, screen, figures_only), place)


def _begin(recipe: Recipe, out: Path | None, screen: Screen, figures_only: bool) -> Result | None:
    folder = new_folder(recipe.name, out)
    for note in recipe.notes:
        screen.warn(note)
    with locked(folder):
        try:
            folder.write_recipe(recipe.dump(absolute=True))
            note_start(folder)
            # the run's own copy is what `resume` will read: the same text gives the same names
            own = Recipe.load(folder.file(RECIPE)).placed_as(recipe)
            return _whole(Work(folder, own, screen, figures_only=figures_only))
        except KeyboardInterrupt:
            raise interrupted(folder) from None
        except Exception:  # a signal is none: what it stops can be gone on with
            if not folder.progress().get("began"):
                discard_if_empty(folder)
            raise


def resume(path: Path | str, *, verify: bool = False, quiet: bool = False, json: bool = False) -> Result | None:
    """Go on with a run. `verify` computes its last steps again instead, compares every bit and gives nothing back."""
    screen = Screen(quiet=quiet, json=json)
    if verify:
        several.refuse("verifying a run", str(path))
        verify_steps(path, screen)
        return None
    with several.joined() as group:
        whole = _of_a_run(path).path
        said = screen if group.first else Silent()
        return several.together(group, lambda folder: _go_on(RunFolder(folder or whole), said), whole, whole)


def _go_on(folder: RunFolder, screen: Screen) -> Result | None:
    with locked(folder):
        folder.sweep()
        recipe = Recipe.load(folder.file(RECIPE))
        if (folder.path / "report.json").exists():
            from tunewright.report.schema import Report

            screen.say("this run is finished")
            return Result(folder.path, Report.load(folder.path), earlier=True)
        note_start(folder)
        if folder.progress().get("began"):
            from tunewright.runs import begun

            begun.check_recipe(folder)
        try:
            work = Work(folder, recipe, screen)
            note_resumed(work)  # what is refused is not counted
            return _whole(work)
        except KeyboardInterrupt:
            raise interrupted(folder) from None


def verify_steps(path: Path | str, screen: Screen) -> None:
    """Compute a run's last steps again and compare every bit; CheckpointError names what differs."""
    from tunewright.runs import begun, intact

    folder = _of_a_run(path)
    with locked(folder):
        recipe = Recipe.load(folder.file(RECIPE))
        whole = intact.check(folder.path) if (folder.path / "report.json").exists() else intact.Intact()
        begun.check_recipe(folder)
        verify_run(Work(folder, recipe, screen), whole)


def _of_a_run(path: Path | str) -> RunFolder:
    folder = RunFolder(Path(path))
    if not folder.file(RECIPE).exists() or not folder.file(LOCK).exists():  # a recipe alone may be the user's own
        raise FolderError("this is no run's folder", where=str(path), remedy="name a folder that `tunewright run` made")
    return folder


def note_resumed(work: Work) -> None:
    """Count a resume, and say on the report where any of them went on in other surroundings."""
    from tunewright.runs import begun

    progress = work.folder.progress()
    told, noted = begun.elsewhere(work.folder, work.session), list(progress.get("elsewhere", []))
    if told is not None:
        work.screen.warn(told)
        noted += [told] if told not in noted else []
    work.folder.note_progress(resumed=progress.get("resumed", 0) + 1, elsewhere=noted)
    work.session.notes += noted


def interrupted(folder: RunFolder) -> Interrupted:
    """What a run ends with that was stopped outside of its steps."""
    return Interrupted(
        "interrupted; what was done before is kept",
        where=str(folder.path),
        remedy=f"tunewright resume {folder.path}",
    )


def _whole(work: Work) -> Result | None:
    """None in a process beside the first: its work ends with training."""
    cached = work.train()
    # what comes after training is the first one's alone, and then only it has the model that is measured
    return work.meter.sharing.lead(lambda: finish(work, cached), helped=not work.recipe.after)


def note_start(folder: RunFolder) -> None:
    """Write down when and how the run began, unless a process that was killed since did."""
    from tunewright.runs.results import command

    if "started" not in folder.progress():
        folder.note_progress(started=now(), command=command())


__all__ = ["Result", "TunewrightError", "resume", "run"]
