"""Run a recipe that lists adapters: all train in one process over one base, and each leaves the folder of a run.

Every adapter is a whole run (`Work`) of a recipe of its own, with a model of its own over the base's one memory
(`shared.py`). They pause where an optimizer step is due; a round does a step of each, those that can in one forward and
backward (`training/joint.py`). One that is done is measured, reported and drops out.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tunewright.errors import CheckpointError, Interrupted, MethodError, TunewrightError
from tunewright.files.checkpoint import write_json
from tunewright.recipe import Recipe
from tunewright.recipe.adapters import AdaptersRecipe, read
from tunewright.report.adapters import AdapterLine, AdaptersSummary
from tunewright.runs.folder import RECIPE, RunFolder, discard_if_empty, locked, new_folder
from tunewright.runs.progress import Screen
from tunewright.runs.result import Result
from tunewright.runs.run import interrupted, note_resumed, note_start
from tunewright.runs.run import resume as resume_one
from tunewright.runs.shared import SharedBase
from tunewright.runs.work import Work
from tunewright.training.joint import Joint, alone, why_not

if TYPE_CHECKING:
    from tunewright.models.adapted import Adapted
    from tunewright.training.stepping import Due
    from tunewright.training.train import Loop

R = TypeVar("R")
SUMMARY = "adapters.json"
BEGAN_WITH = "recipe"
"""Key of progress.json: a hash of the recipe that the run began with."""


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
    recipe: str | Path | dict[str, Any] | AdaptersRecipe,
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
            note_start(folder)
            folder.note_progress(**{BEGAN_WITH: _hash(text)})
            return _Several(folder, several, screen, joint).run()
        except KeyboardInterrupt:
            raise interrupted(folder) from None
        except Exception:
            _discard(folder, several)
            raise


def resume(
    path: Path | str, *, verify: bool = False, quiet: bool = False, json: bool = False, joint: bool = True
) -> AdaptersResult | None:
    """Go on with the adapters that are not finished. `verify`: each one's last steps are computed again, alone."""
    folder = RunFolder(Path(path))
    several = read(folder.file(RECIPE))
    if verify:
        for name in several.recipes:
            resume_one(folder.path / name, verify=True, quiet=quiet, json=json)
        return None
    with locked(folder):
        folder.sweep()
        if folder.progress().get(BEGAN_WITH) != _hash(folder.file(RECIPE).read_text(encoding="utf-8")):
            raise CheckpointError(
                "recipe.yaml was changed since the run began", where=str(folder.path), remedy="put the old values back"
            )
        try:
            return _Several(folder, several, Screen(quiet=quiet, json=json), joint).run()
        except KeyboardInterrupt:
            raise interrupted(folder) from None


def check_adds(name: str, recipe: Recipe) -> None:
    """MethodError where an adapter adds nothing to the base, so that the base's own weights would train."""
    from tunewright import catalogue

    uses = recipe.stages[0].methods
    if not any({"attach", "wrap"} & set(catalogue.load_method(use.name).slots()) for use in uses):
        raise trains_base(name, ", ".join(u.name for u in uses), uses[0].place)


def trains_base(name: str, what: str, where: str | None) -> MethodError:
    """The error for an adapter that trains weights of the base, which the others stand on."""
    return MethodError(
        f"the adapter '{name}' trains weights of the base, which all adapters share ({what})",
        where=where,
        remedy=f"give '{name}' a recipe of its own, or a method that adds to the base (lora, ia3 ...)",
    )


@dataclass
class _Member:
    """One adapter while it trains: `steps` pauses where its loop's next step is due. `shares`: whether it can share
    forwards, None before that was asked.
    """

    name: str
    work: Work
    steps: Generator[Loop, None, list[str]]
    loop: Loop | None = None
    shares: bool | None = None
    away: float = field(default_factory=time.perf_counter)


@dataclass
class _Group:
    """Adapters that share forwards."""

    members: list[_Member]
    joint: Joint


def _end_step(due: Due, record: dict[str, Any] | None, loop: Loop) -> dict[str, Any]:
    """End a step whose gradients are there (`record`), or are computed now, by the loop alone."""
    loop.done = loop.end_step(due, record if record is not None else alone(loop, due))
    return loop.done


class _Named(Screen):
    """Lines and records of one adapter among others."""

    def __init__(self, name: str, screen: Screen):
        super().__init__(quiet=screen.quiet, json=screen.json)
        self.name = name

    def say(self, text: str, *, always: bool = False) -> None:
        super().say(f"{self.name}: {text}", always=always)

    def warn(self, text: str) -> None:
        super().warn(f"{self.name}: {text}")

    def training(self, stage: str, plan: Any) -> Any:
        """As lines, never as a bar: several train at once."""
        return self._told(stage, plan)

    def _told(self, stage: str, plan: Any) -> Any:
        from contextlib import nullcontext

        if self.quiet:
            return nullcontext(lambda record: None)
        if self.json:
            import json

            return nullcontext(lambda record: print(json.dumps({"adapter": self.name, **record}), flush=True))
        return nullcontext(self._lines(stage, plan))


class _Several:
    """The adapters of one run. `stop_requested` is set by a signal: all write a checkpoint after their present step."""

    def __init__(self, folder: RunFolder, several: AdaptersRecipe, screen: Screen, joint: bool):
        self.folder, self.several, self.screen, self.joint = folder, several, screen, joint
        self.results: dict[str, Result] = {}
        self.failed: dict[str, TunewrightError] = {}
        self.stopped: list[str] = []
        self.stop_requested = False
        self.base = SharedBase()
        self.groups: dict[int, _Group] = {}

    def run(self) -> AdaptersResult:
        """Train all that are not finished, and report."""
        from tunewright.models.generators import undisturbed

        with ExitStack() as held, undisturbed():
            self._train(self._members(held))
        if self.stopped:
            raise Interrupted(
                f"stopped by a signal; {', '.join(self.stopped)} wrote checkpoints, and nothing is lost",
                where=str(self.folder.path),
                remedy=f"tunewright resume {self.folder.path}",
            )
        summary = self._report()
        for name, error in self.failed.items():
            others = ", ".join(n for n in self.several.recipes if n not in self.failed)
            done = f"; finished beside it: {others}" if others else ""
            raise type(error)(
                f"the adapter '{name}' stopped: {error.what}{done}", where=error.where, remedy=error.remedy
            )
        return AdaptersResult(self.folder.path, {n: self.results[n] for n in self.several.recipes}, summary)

    def _members(self, held: ExitStack) -> list[_Member]:
        """The adapters that are not finished, each with its parts; locks are held until `held` ends."""
        from tunewright.runs import begun

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
            work = Work(folder, own, _Named(name, self.screen), base=self.base)
            if again:
                note_resumed(work)
            members.append(_Member(name, work, work.steps()))
        return members

    def _train(self, members: list[_Member]) -> None:
        """Rounds of a step each, until all are finished, failed or stopped."""
        from tunewright.runs.rehearsing import rehearse
        from tunewright.runs.stages import stopping_on_signals

        for m in members:
            if not m.work.folder.progress().get("began"):  # what one refuses is said before any is measured
                rehearse(m.work.session, m.work.folder.path)
        active = [m for m in members if self._go_on(m)]
        for m in active:
            assert m.loop is not None
            new = set(m.work.session.adapted.new)
            foreign = [n for n, leaf in m.loop.trained.leaves.items() if leaf.group == "base" and n not in new]
            if foreign:
                raise trains_base(m.name, foreign[0], m.work.recipe.stages[0].methods[0].place)
        while active:
            with stopping_on_signals(self):  # type: ignore[arg-type]
                stepped = self._round(active)
                if self.stop_requested:
                    for m in stepped:
                        m.work.listening.stop_requested = True
            active = [m for m in stepped if self._go_on(m)]

    def _round(self, active: list[_Member]) -> list[_Member]:
        """A step of each, those that can in one forward and backward; gives those that did it."""
        dues = {m.name: due for m in active if (due := self._in_turn(m, lambda loop: loop.begin_step())) is not None}
        records: dict[str, dict[str, Any]] = {}
        for group in self._groups([m for m in active if m.name in dues]):
            found = group.joint.gradients([dues[m.name] for m in group.members])
            records |= dict(zip((m.name for m in group.members), found or (), strict=False))
        stepped = []
        for m in active:
            if m.name in dues and self._in_turn(m, partial(_end_step, dues[m.name], records.get(m.name))) is not None:
                stepped.append(m)
        return stepped

    def _in_turn(self, m: _Member, do: Callable[[Loop], R]) -> R | None:
        """Let one adapter's loop do something, with its own random numbers; None where it stopped in it."""
        assert m.loop is not None
        self._back(m)
        m.loop.randomness.back()
        try:
            return do(m.loop)
        except TunewrightError as error:
            self._fail(m, error)
            return None
        finally:
            m.loop.randomness.remember()
            m.away = time.perf_counter()

    def _groups(self, members: list[_Member]) -> list[_Group]:
        """Those of these adapters that share forwards, by the base that they share."""
        if not self.joint:
            return []
        by_body: dict[int, list[_Member]] = {}
        for m in members:
            if m.shares is None:
                m.shares = self._shares(m)
            if m.shares:
                by_body.setdefault(id(self._body(m)), []).append(m)
        wanted = {key: some for key, some in by_body.items() if len(some) > 1}
        for key, group in list(self.groups.items()):
            if group.members != wanted.get(key):
                group.joint.close()
                del self.groups[key]
        for key, some in wanted.items():
            if key not in self.groups:
                body = self._body(some[0])
                assert body is not None
                self.groups[key] = _Group(some, Joint(body, [m.loop for m in some if m.loop is not None]))
        return list(self.groups.values())

    def _body(self, m: _Member) -> Adapted | None:
        return self.base.body(m.work.session.loaded.model, m.work.session.packed)

    def _shares(self, m: _Member) -> bool:
        body = self._body(m)
        assert m.loop is not None
        why = "this model's rows cannot be packed" if body is None else why_not(m.loop, body)
        if why:
            m.work.screen.say(f"has forwards of its own: {why}")
        return not why

    def _go_on(self, m: _Member) -> bool:
        """Let an adapter work until its next step is due; False where it ended, one way or the other."""
        self._back(m)
        if m.loop is not None:
            m.loop.randomness.back()
        try:
            m.loop = next(m.steps)
            return True
        except StopIteration as end:
            from tunewright.runs.finishing import finish

            self.results[m.name] = finish(m.work, end.value)
        except Interrupted:
            self.stopped.append(m.name)
        except TunewrightError as error:
            self._fail(m, error)
        finally:
            m.away = time.perf_counter()
        return False

    def _back(self, m: _Member) -> None:
        """What others did in the meantime is not this adapter's cost."""
        m.work.cost.elsewhere(time.perf_counter() - m.away)

    def _fail(self, m: _Member, error: TunewrightError) -> None:
        """Stop one adapter; the others go on."""
        m.steps.close()
        self.failed[m.name] = error
        m.work.screen.warn(f"stopped, and the others go on: {error}")

    def _report(self) -> AdaptersSummary:
        """Write what became of each adapter, as figures and as a page."""
        lines = []
        for name, recipe in self.several.recipes.items():
            methods = ", ".join(use.name for use in recipe.stages[0].methods)
            result, error = self.results.get(name), self.failed.get(name)
            lines.append(
                AdapterLine.of(name, methods, result.report if result else None, str(error) if error else None)
            )
        summary = AdaptersSummary(self.several.name, lines)
        write_json(self.folder.file(SUMMARY), summary.to_json())
        summary.write_page(self.folder.path)
        return summary


def _earlier(folder: RunFolder) -> Result:
    """What an earlier process finished."""
    from tunewright.report.schema import Report

    return Result(folder.path, Report.load(folder.path), earlier=True)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _discard(folder: RunFolder, several: AdaptersRecipe) -> None:
    """Remove a folder in which no adapter began."""
    own = [RunFolder(folder.path / name) for name in several.recipes]
    if not any(f.progress().get("began") for f in own):
        for f in own:
            discard_if_empty(f)
        discard_if_empty(folder)
