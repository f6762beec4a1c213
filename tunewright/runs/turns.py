"""Runs that train in turns over one base: a round is a step of each, for those that can in one forward and backward.

A run pauses where its next step is due (`Work.steps`). One that is done is measured and reported at once and drops out;
one that an error ends does, too, and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from tunewright.errors import Interrupted, MethodError, TunewrightError
from tunewright.models.adapted import Adapted
from tunewright.models.flops import counting
from tunewright.runs.finishing import finish
from tunewright.runs.rehearsing import rehearse
from tunewright.runs.result import Result
from tunewright.runs.shared import SharedBase
from tunewright.runs.stages import stopping_on_signals
from tunewright.runs.verifying import SHARED
from tunewright.runs.work import Work
from tunewright.training.joint import Found, Joint, alone, why_not
from tunewright.training.stepping import Due
from tunewright.training.train import Loop

R = TypeVar("R")


def trains_base(name: str, what: str, where: str | None) -> MethodError:
    """The error for an adapter that trains weights of the base, which the others stand on."""
    return MethodError(
        f"the adapter '{name}' trains weights of the base, which all adapters share ({what})",
        where=where,
        remedy=f"give '{name}' a recipe of its own, or a method that adds to the base (lora, ia3 ...)",
    )


@dataclass
class Member:
    """One run: `steps` pauses where its loop's next step is due. `shares`: whether it can share forwards, None before
    that was asked; `ended`: what its training gave, once it is through.
    """

    name: str
    work: Work
    steps: Generator[Loop, None, list[str]]
    loop: Loop | None = None
    shares: bool | None = None
    ended: list[str] | None = None
    away: float = field(default_factory=time.perf_counter)

    def back(self) -> None:
        """What others did in the meantime is not this run's cost."""
        self.work.cost.elsewhere(time.perf_counter() - self.away)
        if self.loop is not None:
            self.loop.randomness.back()

    def leave(self) -> None:
        self.away = time.perf_counter()

    @property
    def at(self) -> Loop:
        assert self.loop is not None
        return self.loop


@dataclass
class _Group:
    """Runs that share forwards."""

    members: list[Member]
    joint: Joint


class Turns:
    """What became of each run, by name. `joint`: whether they may share forwards.

    `stop_requested` is set by a signal: all write a checkpoint after their present step.
    """

    def __init__(self, *, joint: bool):
        self.joint, self.base = joint, SharedBase()
        self.results: dict[str, Result] = {}
        self.failed: dict[str, TunewrightError] = {}
        self.stopped: list[str] = []
        self.stop_requested = False
        self._groups: dict[int, _Group] = {}

    def train(self, members: list[Member]) -> None:
        """Rounds of a step each, until all are finished, failed or stopped."""
        for m in members:
            if not m.work.folder.progress().get("began"):  # what one refuses is said before any is measured
                rehearse(m.work.session, m.work.folder.path)
        active, ended = self._go_on(members)
        for m in active:
            new = set(m.work.session.adapted.new)
            foreign = [n for n, leaf in m.at.trained.leaves.items() if leaf.group == "base" and n not in new]
            if foreign:
                raise trains_base(m.name, foreign[0], m.work.recipe.stages[0].methods[0].place)
        while active:
            with stopping_on_signals(self):
                self._finish(ended)  # what a signal meets here would cost the others their steps
                stepped = self._round(active)
                for m in stepped:
                    m.work.listening.stop_requested |= self.stop_requested
                active, ended = self._go_on(stepped)
        self._finish(ended)

    def _round(self, active: list[Member]) -> list[Member]:
        """A step of each, those that can in one forward and backward; gives those that did it."""
        dues = {m.name: due for m in active if (due := self._in_turn(m, lambda loop: loop.begin_step())) is not None}
        found: dict[str, Found] = {}
        for group in self._sharing([m for m in active if m.name in dues]):
            mine = [dues[m.name] for m in group.members]
            before = [due.seconds for due in mine]
            for m, due, was, one in zip(group.members, mine, before, group.joint.gradients(mine) or (), strict=False):
                found[m.name] = one
                m.work.cost.elsewhere(was - due.seconds)  # its share of what was done for all
        there = [m for m in active if m.name in dues]
        return [m for m in there if self._in_turn(m, partial(_end, dues[m.name], found.get(m.name))) is not None]

    def _in_turn(self, m: Member, do: Callable[[Loop], R]) -> R | None:
        """Let one run's loop do something, with its own random numbers, and count its operations; None where it stopped
        in it.
        """
        m.back()
        try:
            with counting() as counted:
                done = do(m.at)
            m.at.flops += counted.total
            return done
        except TunewrightError as error:
            self._fail(m, error)
            return None
        finally:
            m.at.randomness.remember()
            m.leave()

    def _go_on(self, members: list[Member]) -> tuple[list[Member], list[Member]]:
        """Let each work until its next step is due: those that are there, and those whose training is through."""
        active, ended = [], []
        through = [m for m in members if m.loop is not None and m.loop.finished()]
        for m in members if through else ():
            if m not in through and m.shares:  # where it goes on without them, a resumed run must begin
                m.work.listening.asked = True
        for m in [*(m for m in members if m not in through), *through]:
            m.back()
            try:
                m.loop = next(m.steps)
                active.append(m)
            except StopIteration as end:
                m.ended = end.value
                ended.append(m)
            except Interrupted:
                self.stopped.append(m.name)
            except TunewrightError as error:
                self._fail(m, error)
            finally:
                m.leave()
        return active, ended

    def _finish(self, ended: list[Member]) -> None:
        """Measure, save and report those whose training is through."""
        while ended:
            m = ended.pop(0)
            m.back()
            try:
                self.results[m.name] = finish(m.work, m.ended or [])
            except TunewrightError as error:
                self._fail(m, error)
            m.leave()

    def _fail(self, m: Member, error: TunewrightError) -> None:
        """Stop one run; the others go on."""
        m.steps.close()
        self.failed[m.name] = error
        m.work.screen.warn(f"stopped, and the others go on: {error}")

    def _sharing(self, members: list[Member]) -> list[_Group]:
        """Those of these runs that share forwards, by the base that they share."""
        by_body: dict[int, list[Member]] = {}
        for m in members if self.joint else ():
            body = self._body(m)
            if m.shares is None:
                why = "this model's rows cannot be packed" if body is None else why_not(m.at, body)
                m.shares = not why
                if why:
                    m.work.screen.say(f"has forwards of its own: {why}")
            if m.shares:
                by_body.setdefault(id(body), []).append(m)
        wanted = {key: some for key, some in by_body.items() if len(some) > 1}
        for key, group in list(self._groups.items()):
            if group.members != wanted.get(key):
                group.joint.close()
                del self._groups[key]
        for key, some in wanted.items():
            if key not in self._groups:
                body = self._body(some[0])
                assert body is not None
                self._groups[key] = _Group(some, Joint(body, [m.at for m in some]))
                _note_sharing(some)
        return list(self._groups.values())

    def _body(self, m: Member) -> Adapted | None:
        return self.base.body(m.work.session.loaded.model, m.work.session.packed)


def _end(due: Due, found: Found | None, loop: Loop) -> dict[str, Any]:
    """End a step whose gradients are there (`found`), or are computed now, by the loop alone."""
    loop.done = loop.end_step(due, loop.told(*found) if found is not None else alone(loop, due))
    return loop.done


def _note_sharing(members: list[Member]) -> None:
    """Say in each run's folder and report with which others it has shared forwards."""
    for m in members:
        known = list(m.work.folder.progress().get(SHARED, []))
        others = [o.name for o in members if o is not m and o.name not in known]
        if others:
            m.work.folder.note_progress(**{SHARED: known + others})
        said = (
            f"trained in forwards that it shared with {', '.join(known + others)}: its recipe alone gives the same to "
            "rounding, and not in every bit"
        )
        notes = m.work.session.notes
        if not any(note.startswith("trained in forwards") for note in notes):
            notes.append(said)
