"""Run a recipe that lists adapters: all train in one process over one base, and each leaves the folder of a run.

Every adapter is a whole run (`Work`) of a recipe of its own, with a model of its own over the base's one memory
(`shared.py`), and they train in turns (`turns.py`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright import catalogue
from tunewright.errors import CheckpointError, FolderError, Interrupted
from tunewright.files import checkpoint
from tunewright.files.checkpoint import MANIFEST, write_json
from tunewright.files.regular import regular
from tunewright.models.generators import undisturbed
from tunewright.recipe import Recipe
from tunewright.recipe.adapters import AdaptersRecipe, read
from tunewright.report.adapters import AdapterLine, AdaptersSummary
from tunewright.report.schema import Report
from tunewright.runs import begun
from tunewright.runs.folder import ADAPTERS, RECIPE, RunFolder, discard_if_empty, locked, new_folder
from tunewright.runs.progress import Named, Screen
from tunewright.runs.result import Result
from tunewright.runs.run import interrupted, note_resumed, note_start, verify_steps
from tunewright.runs.turns import Member, Turns, trains_base
from tunewright.runs.work import Work

BEGAN = "together.json"
BEGAN_WITH, JOINT = "recipe", "joint"
"""Its keys: a hash of the recipe that the run began with, and whether adapters may share forwards."""


@dataclass(repr=False)
class AdaptersResult:
    """A finished run of several adapters: its folder, and each adapter's own result by name."""

    folder: Path
    results: dict[str, Result]
    summary: AdaptersSummary

    def __str__(self) -> str:
        return self.summary.text(self.folder)

    def __repr__(self) -> str:
        return f"<AdaptersResult of {self.folder}: {', '.join(self.results)}>"

    def _repr_html_(self) -> str:
        return self.summary.html()


def run(
    recipe: str | Path | Mapping[str, Any] | AdaptersRecipe,
    out: Path | str | None = None,
    *,
    sets: Sequence[str] = (),
    quiet: bool = False,
    json: bool = False,
    joint: bool = True,
) -> AdaptersResult:
    """Run a recipe that lists adapters; arguments as of `runs.run.run`. Writes a folder a run in `out`, by name.

    `joint`: whether adapters may share forwards; without, each step is in every bit that of the adapter alone.
    """
    several = read(recipe, sets)
    screen = Screen(quiet=quiet, json=json)
    for note in several.notes:
        screen.warn(note)
    for name, one in several.recipes.items():
        check_adds(name, one)
    folder = new_folder(several.name, Path(out) if out is not None else None)
    with locked(folder):
        try:
            text = several.dump()
            folder.write_recipe(text)
            write_json(folder.file(BEGAN), {BEGAN_WITH: _hash(text), JOINT: joint})
            return _Several(folder, several, screen).run()
        except KeyboardInterrupt:
            raise interrupted(folder) from None
        except Exception:
            _discard(folder, several)
            raise


def verify(path: Path | str, *, quiet: bool = False, json: bool = False) -> None:
    """Compute each adapter's last steps again, alone, as `resume --verify` does; raises what differs."""
    for name in read(Path(path) / RECIPE).recipes:
        verify_steps(Path(path) / name, Named(name, Screen(quiet=quiet, json=json)))


def resume(path: Path | str, *, quiet: bool = False, json: bool = False) -> AdaptersResult:
    """Go on with the adapters that are not finished."""
    folder = RunFolder(Path(path))
    several = read(folder.file(RECIPE))
    with locked(folder):
        folder.sweep()
        if _begun(folder).get(BEGAN_WITH) != _hash(folder.file(RECIPE).read_text(encoding="utf-8")):
            raise CheckpointError(
                "recipe.yaml was changed since the run began", where=str(folder.path), remedy="put the old values back"
            )
        try:
            return _Several(folder, several, Screen(quiet=quiet, json=json)).run()
        except KeyboardInterrupt:
            raise interrupted(folder) from None


def check_adds(name: str, recipe: Recipe) -> None:
    """MethodError where an adapter adds nothing to the base, so that the base's own weights would train."""
    uses = recipe.stages[0].methods
    if not any({"attach", "wrap"} & set(catalogue.load_method(use.name).slots()) for use in uses):
        raise trains_base(name, ", ".join(u.name for u in uses), uses[0].place)


class _Several:
    """The adapters of one run, by name: those that are finished, and the others while they train."""

    def __init__(self, folder: RunFolder, several: AdaptersRecipe, screen: Screen):
        self.folder, self.several, self.screen = folder, several, screen
        self.turns = Turns(joint=bool(_begun(folder).get(JOINT, True)))
        self.results = self.turns.results

    def run(self) -> AdaptersResult:
        """Train all that are not finished, and report."""
        with ExitStack() as held, undisturbed():
            self.turns.train(self._members(held))
        if self.turns.stopped:
            raise Interrupted(
                f"stopped by a signal; {', '.join(self.turns.stopped)} wrote checkpoints, and nothing is lost",
                where=str(self.folder.path),
                remedy=f"tunewright resume {self.folder.path}",
            )
        failed, summary = self.turns.failed, self._report()
        for name, error in failed.items():
            others = ", ".join(n for n in self.several.recipes if n not in failed)
            done = f"; finished beside it: {others}" if others else ""
            raise type(error)(
                f"the adapter '{name}' stopped: {error.what}{done}", where=error.where, remedy=error.remedy
            )
        return AdaptersResult(self.folder.path, {n: self.results[n] for n in self.several.recipes}, summary)

    def _members(self, held: ExitStack) -> list[Member]:
        """The adapters that are not finished, each with its parts; locks are held until `held` ends."""
        if self.turns.joint:
            _align([self.folder.path / name for name in self.several.recipes])
        members = []
        for name, recipe in self.several.recipes.items():
            folder = RunFolder(self.folder.path / name)
            folder.path.mkdir(exist_ok=True)
            held.enter_context(locked(folder))
            if (folder.path / "report.json").exists():
                self.results[name] = _earlier(folder)
                continue
            again = folder.file(RECIPE).exists()
            if again:
                folder.sweep()
            else:
                folder.write_recipe(recipe.dump(absolute=True))
            note_start(folder)
            if again and folder.progress().get("began"):
                begun.check_recipe(folder)
            own = Recipe.load(folder.file(RECIPE)).placed_as(recipe)
            work = Work(folder, own, Named(name, self.screen), base=self.turns.base)
            if again:
                note_resumed(work)
            members.append(Member(name, work, work.steps()))
        return members

    def _report(self) -> AdaptersSummary:
        """Write what became of each adapter, as figures and as a page."""
        lines = []
        for name, recipe in self.several.recipes.items():
            methods = ", ".join(use.name for use in recipe.stages[0].methods)
            result, error = self.results.get(name), self.turns.failed.get(name)
            lines.append(
                AdapterLine.of(name, methods, result.report if result else None, str(error) if error else None)
            )
        summary = AdaptersSummary(self.several.name, lines)
        write_json(self.folder.file(ADAPTERS), summary.to_json())
        summary.write_page(self.folder.path)
        return summary


def _align(folders: Sequence[Path]) -> None:
    """Let runs that still train go on from the same step where each has a checkpoint of it, since who shares a forward
    decides how it rounds. Where there is no such step, each goes on from its own last one.
    """
    still = [f for f in folders if not (f / "report.json").exists() and not list(f.glob(f"stages/*/{MANIFEST}"))]
    there = [dict(checkpoint.listed(f)) for f in still]
    if common := set.intersection(*map(set, there)) if there else set():
        for steps in there:
            for path in (p for step, p in steps.items() if step > max(common)):
                shutil.rmtree(path, ignore_errors=True)


def _earlier(folder: RunFolder) -> Result:
    """What an earlier process finished."""
    return Result(folder.path, Report.load(folder.path), earlier=True)


def _begun(folder: RunFolder) -> dict[str, Any]:
    """How the run began. FolderError for a folder that is no such run's."""
    try:
        return dict(json.loads(regular(folder.file(BEGAN)).read_text(encoding="utf-8")))
    except FileNotFoundError:
        what = "this is no folder of several adapters' run"
        raise FolderError(what, where=str(folder.path), remedy="name a folder that `tunewright run` made") from None
    except (OSError, ValueError, TypeError) as e:
        what = f"how the run began cannot be read: {e}"
        raise CheckpointError(what, where=str(folder.file(BEGAN)), remedy="put the file back, or begin anew") from e


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _discard(folder: RunFolder, several: AdaptersRecipe) -> None:
    """Remove a folder in which no adapter began."""
    own = [RunFolder(folder.path / name) for name in several.recipes]
    if not any(f.progress().get("began") for f in own):
        for f in own:
            discard_if_empty(f)
        folder.file(BEGAN).unlink(missing_ok=True)
        discard_if_empty(folder)
