"""The work that an agent may order: checks, plans, runs and comparisons, each in a process of its own, under a budget.

The work folder holds `recipes/`, `runs/` (with `attempts.json`) and `spent.json`: seconds that runs have taken, which a
restart of the server does not give back.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.agents.guard import Guard, overlap
from tunewright.errors import INTERRUPTED, FolderError, RecipeError, TunewrightError
from tunewright.files.checkpoint import write_json
from tunewright.runs import attempts

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")
LOOKS = 600.0
"""Seconds that a check, a plan or a list may take."""
GRACE = 60.0
"""Seconds that an interrupted run has to write its state."""


@dataclass
class Limits:
    """`seconds`: of all runs and comparisons together; `steps`: of one run (none: any)."""

    seconds: float
    steps: int | None = None


class Refused(TunewrightError):
    """What an order came to: a message of the command line, with its exit code."""

    code = 1


class Desk:
    """One work folder. Runs go one after the other."""

    def __init__(self, work: Path, roots: Sequence[Path], locked: Sequence[Path], limits: Limits):
        self.work, self.limits = work.resolve(), limits
        self.runs, self.recipes = self.work / "runs", self.work / "recipes"
        for folder in (self.work, self.runs, self.recipes):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        self.guard = Guard(roots, locked, self.work)
        attempts.start(self.runs)
        self._one, self._names, self._naming = threading.Lock(), set[str](), threading.Lock()

    @property
    def spent(self) -> float:
        """Seconds of runs and comparisons so far."""
        try:
            return float(json.loads((self.work / "spent.json").read_text(encoding="utf-8"))["seconds"])
        except FileNotFoundError:
            return 0.0
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FolderError(
                f"what was spent cannot be read: {error}", where=str(self.work / "spent.json"), remedy="put it back"
            ) from error

    @property
    def left(self) -> float:
        return max(0.0, self.limits.seconds - self.spent)

    def budget(self) -> dict[str, Any]:
        """What is left, and how many attempts were counted on the evaluation rows."""
        counted = attempts.counted(self.runs)
        return {
            "data": self.guard.names(),
            "seconds": self.limits.seconds,
            "spent": round(self.spent, 1),
            "left": round(self.left, 1),
            "steps_of_a_run": self.limits.steps,
            "attempts": max((len(names) for names in counted.values()), default=0),
        }

    def methods(self, name: str | None) -> Any:
        found = self._asked(["methods", *([name] if name else []), "--json"])
        return found if name else [{k: m.get(k) for k in ("name", "room", "does", "summary") if k in m} for m in found]

    def check(self, recipe: str) -> dict[str, Any]:
        """Whether a run would take it: bad rows, refusals, cautions."""
        with self._draft(recipe) as file:
            found = self._asked(["check", str(file), "--json"], may_fail=True)
        return {**self.guard.checked(found), "training_rows_in_evaluation": overlap(found)}

    def plan(self, recipe: str) -> dict[str, Any]:
        """What it would train, for how long, in how much memory; not how rows are cut into tokens, which shows rows."""
        with self._draft(recipe) as file:
            found = self._asked(["plan", str(file), "--json"])
        return dict(self.guard.told({k: v for k, v in found.items() if k != "view"}))

    def run(self, recipe: str, name: str | None, seconds: float | None) -> dict[str, Any]:
        """Run a recipe to its end, or until its seconds are over; the report's figures."""
        name = name or f"run-{1 + sum(1 for p in self.runs.iterdir() if p.is_dir())}"
        with self._alone(name):
            return self._run(recipe, name, seconds)

    def _run(self, recipe: str, name: str, seconds: float | None) -> dict[str, Any]:
        folder = self._place(name)
        if folder.exists():
            raise RecipeError("a run of this name is there", where=name, remedy="give another name, or resume it")
        text = self._written(recipe, name)
        found = self._asked(["check", str(text), "--json"], may_fail=True)
        if not found["ok"]:
            raise Refused("check refuses this recipe", where=name, remedy=json.dumps(self.guard.checked(found))[:2000])
        if count := overlap(found):
            raise RecipeError(
                f"{count} training rows are evaluation rows",
                where="data",
                remedy="take them out: they train on the test",
            )
        return self._timed(["run", str(text), "--out", str(folder), "--json", "--quiet"], folder, seconds)

    def resume(self, name: str, seconds: float | None) -> dict[str, Any]:
        """Go on with a run that the budget stopped."""
        folder = self._known(name)
        return self._timed(["resume", str(folder), "--json", "--quiet"], folder, seconds)

    def compare(self, first: str, second: str) -> dict[str, Any]:
        """Two runs on the same evaluation rows, each difference paired; figures alone."""
        words = ["measure", str(self._known(first)), str(self._known(second)), "--json", "--quiet"]
        code, out, err = self._process(words, self._seconds(None))
        if code:
            raise self._refused(err, code)
        pair = json.loads(out)
        kept = ("first", "second", "task", "target", "others", "kept", "packs", "calibration", "drift", "notes")
        return dict(self.guard.told({k: pair.get(k) for k in kept}))

    def report(self, name: str) -> dict[str, Any]:
        """A finished run's figures."""
        file = self._known(name) / "report.json"
        if not file.exists():
            raise FolderError("this run is not finished", where=name, remedy="resume it")
        return self.guard.report(json.loads(file.read_text(encoding="utf-8")))

    def listed(self) -> list[dict[str, Any]]:
        """The work folder's runs: state and figures."""
        found = self._asked(["runs", "list", str(self.runs), "--json"])
        dropped = ("parts", "problem")
        return [
            {**{k: v for k, v in one.items() if k not in dropped}, "folder": Path(one["folder"]).name}
            for one in self.guard.told(found)
        ]

    def _place(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise RecipeError(f"'{name}' is no name of a run", where="name", remedy="small letters, digits and dashes")
        return self.runs / name

    def _known(self, name: str) -> Path:
        folder = self._place(name)
        if not (folder / "recipe.yaml").exists():
            raise FolderError("there is no such run", where=name, remedy="list the runs")
        return folder

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """No other order has this name within: the recipe that is run is the one that was checked."""
        with self._naming:
            if name in self._names:
                raise RecipeError("a run of this name is being begun", where=name, remedy="give another name")
            self._names.add(name)
        try:
            yield
        finally:
            with self._naming:
                self._names.discard(name)

    @contextmanager
    def _draft(self, recipe: str) -> Iterator[Path]:
        """A recipe to look at, in a file that no other order writes."""
        text = self.guard.recipe(recipe, self.limits.steps)
        with tempfile.TemporaryDirectory(dir=self.recipes) as own:
            file = Path(own) / "draft.yaml"
            file.write_text(text, encoding="utf-8")
            yield file

    def _written(self, recipe: str, name: str) -> Path:
        file = self.recipes / f"{self._place(name).name}.yaml"
        file.write_text(self.guard.recipe(recipe, self.limits.steps), encoding="utf-8")
        return file

    def _seconds(self, asked: float | None) -> float:
        if self.left <= 0:
            raise Refused(
                "the budget is spent", where=f"{self.limits.seconds:.0f} s", remedy="the server's owner may give more"
            )
        return self.left if asked is None else min(self.left, max(1.0, asked))

    def _timed(self, words: list[str], folder: Path, seconds: float | None) -> dict[str, Any]:
        allowed = self._seconds(seconds)
        code, _, err = self._process(words, allowed)
        number = next(
            (n.index(folder.name) + 1 for n in attempts.counted(self.runs).values() if folder.name in n), None
        )
        out = {"name": folder.name, "attempt": number, "budget": self.budget()}
        if code == INTERRUPTED or (code < 0 and (folder / "recipe.yaml").exists()):
            return {**out, "state": f"stopped after {allowed:.0f} s: its time is over; resume goes on"}
        if code:
            raise self._refused(err, code)
        return {**out, "state": "finished", "report": self.report(folder.name)}

    def _process(self, words: list[str], seconds: float) -> tuple[int, str, str]:
        """A command of tunewright, interrupted after `seconds`, its time added to what was spent."""
        if not self._one.acquire(blocking=False):
            raise Refused("a run is going on", where="run", remedy="wait for it")
        try:
            began = time.monotonic()
            try:
                return self._called(words, seconds)
            finally:
                write_json(self.work / "spent.json", {"seconds": self.spent + time.monotonic() - began})
        finally:
            self._one.release()

    def _called(self, words: Sequence[str], seconds: float) -> tuple[int, str, str]:
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "tunewright", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.work,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        ) as process:
            try:
                out, err = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)
                try:
                    out, err = process.communicate(timeout=GRACE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    out, err = process.communicate()
        return process.returncode, out, err

    def _asked(self, words: list[str], *, may_fail: bool = False) -> Any:
        """What a command prints as JSON; its message as an error. `may_fail`: a code of its own is an answer too."""
        code, out, err = self._called(words, LOOKS)
        try:
            found = json.loads(out)
        except ValueError:
            found = None
        if found is None or (code and not may_fail):
            raise self._refused(err, code)
        return found

    def _refused(self, err: str, code: int) -> Refused:
        """The command's own message, without what evaluation rows say."""
        message = err[err.rfind("error: ") :].removeprefix("error: ").strip() if "error: " in err else "it failed"
        if any(f.name in message for f in self.guard.locked):
            message = f"an evaluation row or file cannot be used (exit code {code}); the server's owner sees which"
        return Refused(str(self.guard.told(message)))
