"""`check` and `plan` of a recipe that lists adapters: each as if it were alone, then what holds for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewright.errors import TunewrightError
from tunewright.planning import check as checking
from tunewright.planning.check import CheckResult, check_recipe
from tunewright.planning.plan import RunPlan, planned
from tunewright.recipe.adapters import read
from tunewright.report import words
from tunewright.report.terminal_cells import clean
from tunewright.runs.adapters import check_adds
from tunewright.runs.progress import Screen
from tunewright.runs.shared import SharedBase


@dataclass
class AdaptersCheck:
    """What was found in each adapter's data, by its name."""

    checks: dict[str, CheckResult]

    @property
    def ok(self) -> bool:
        return all(c.ok for c in self.checks.values())

    @property
    def code(self) -> int:
        """The exit code of the first that a run would refuse; 0 where it would take all."""
        return next((c.code for c in self.checks.values() if not c.ok), 0)

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "adapters": {n: c.to_json() for n, c in self.checks.items()}}

    def show(self) -> None:
        out = Console(highlight=False, soft_wrap=True, emoji=False)
        for name, checked in self.checks.items():
            out.print(Text(f"adapter {name}", style="bold"))
            checking.show(checked.report, checked.written, out)


@dataclass
class AdaptersPlan:
    """What each adapter's part would do, by its name. Seconds are those of each alone: what is computed for several at
    once takes less.
    """

    plans: dict[str, RunPlan]

    @property
    def load(self) -> float:
        """Seconds to load the base and all rows."""
        return sum(p.load for p in self.plans.values())

    @property
    def total(self) -> float:
        """Seconds at most, from start to end."""
        return self.load + sum(p.estimate.total for p in self.plans.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "load": self.load,
            "total": self.total,
            "peak_memory": max(p.estimate.peak_memory for p in self.plans.values()),
            "adapters": {n: p.to_json() for n, p in self.plans.items()},
        }

    def show(self, path: Path | None = None) -> None:
        out = Console(highlight=False, emoji=False)
        first = next(iter(self.plans.values()))
        parameters = words.count(first.model["parameters"])
        held = f": {parameters} parameters, held once; {first.task} on {first.device} in {first.precision}"
        out.print(Text.assemble((first.model["name"], "bold"), held), soft_wrap=True)
        columns = ("adapter", "methods", "rows", words.counted(first.task), "steps", "trained", "train", "in all")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for i, column in enumerate(columns):
            table.add_column(column, justify="left" if i < 2 else "right", overflow="fold")
        for name, p in self.plans.items():
            (stage,) = p.stages
            counts = (words.count(n) for n in (stage.rows, stage.tokens, stage.steps, stage.trainable))
            spent = (words.seconds(p.estimate.train), words.seconds(p.estimate.total))
            table.add_row(name, ", ".join(m["name"] for m in stage.methods), *counts, *spent)
        out.print(table)
        out.print(
            f"At most {words.seconds(self.total)}, if nothing were computed for several at once; "
            f"{words.size(sum(p.estimate.disk for p in self.plans.values()))} on disk",
            soft_wrap=True,
        )
        for name, p in self.plans.items():
            (stage,) = p.stages
            for note in (*p.notes, *((stage.few,) if stage.few else ()), *stage.cautions):
                out.print(Text(f"note: {name}: {clean(note)}", style="yellow"), soft_wrap=True)
        if path is not None:
            out.print(f"\nNext: tunewright run {path}", markup=False)


def check_adapters(recipe: Any, *, sets: Sequence[str] = (), clean: Path | None = None) -> AdaptersCheck:
    """`check_recipe` of each adapter; a clean copy of its rows goes to a folder of its name. RecipeError where the
    recipe cannot be read.
    """
    several, checks = read(recipe, sets), dict[str, CheckResult]()
    for name, one in several.recipes.items():
        checks[name] = found = check_recipe(one, clean=clean / name if clean is not None else None)
        try:
            check_adds(name, one)
        except TunewrightError as error:
            found.report.errors.append(error)
    return AdaptersCheck(checks)


def plan_adapters(recipe: Any, *, sets: Sequence[str] = (), quiet: bool = False) -> AdaptersPlan:
    """`plan` of each adapter over one base, which is loaded once. Raises what a run would refuse."""
    several, base, screen = read(recipe, sets), SharedBase(), Screen(quiet=quiet)
    for name, one in several.recipes.items():
        check_adds(name, one)
    plans: dict[str, RunPlan] = {}
    for name, one in several.recipes.items():
        screen.say(f"adapter {name}")
        plans[name] = planned(one, screen, base)
    return AdaptersPlan(plans)
