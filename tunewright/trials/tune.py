"""`tunewright tune`: learning rate, length of training and batch of a recipe, chosen on rows held out from training.

The rows that a report judges by (`data.eval`) are never read. Runs are kept in the folder and found again by what
decides their numbers, so that the same command goes on after any interruption.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.errors import RecipeError
from tunewright.files.cache import cache_folder
from tunewright.planning.lengths import held_out
from tunewright.recipe import Budget, Recipe
from tunewright.report import notebook
from tunewright.runs.assemble import settled
from tunewright.trials import tune_page
from tunewright.trials.place import place
from tunewright.trials.pool import Trial, Workers, run_all
from tunewright.trials.race import Candidate, Race
from tunewright.trials.trial import Store, TrialRecord, key_of
from tunewright.trials.tuned import Tried, TuneFigures
from tunewright.trials.tuning import validation_recipe

TRIALS = 16
"""Runs at most, where nothing else is asked for."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class TuneResult(TuneFigures):
    """What `tune` found; `print` shows it as the command line does."""

    def __str__(self) -> str:
        return notebook.plain(lambda console: tune_page.show(self, console))

    def _repr_html_(self) -> str:
        return notebook.recorded(lambda console: tune_page.show(self, console))


def tune(
    recipe: Recipe,
    *,
    trials: int = TRIALS,
    minutes: float | None = None,
    seeds: int = 1,
    out: Path | None = None,
    workers: int | None = None,
    say: Say = lambda text: None,
) -> TuneResult:
    """Race settings of a recipe of one stage against each other.

    `trials`: runs at most, over all seeds; `minutes`: none is begun later (the recipe's own is always run); `seeds`:
    runs of each setting, each with other rows held out. `out`: where the runs are kept (default runs/tune-NAME).
    Interrupted after Ctrl-C: calling again goes on. RecipeError for a recipe of several stages, one whose budget is a
    time, and one with too few rows to hold any out.
    """
    _check(recipe)
    began = time.monotonic()
    folder = Path(out) if out is not None else Path("runs") / f"tune-{recipe.name}"
    with place(folder) as held:
        work = _Work(_ready(recipe), folder, trials, None if minutes is None else began + 60 * minutes, seeds, say)
        held.done = lambda: work.done
        with Workers(workers) as pool:
            return work.whole(pool)


def _check(recipe: Recipe) -> None:
    if len(recipe.stages) != 1:
        raise RecipeError(
            f"tune searches the values of a recipe with one stage, and this one has {len(recipe.stages)}",
            where="stages",
            remedy="of a sequence of tasks `compare --tune` chooses the rates"
            if recipe.sequence is not None
            else "write a recipe with top-level `methods` and `budget`",
        )
    budget = recipe.stages[0].budget
    for kind in ("seconds", "flops"):
        if getattr(budget, kind) is not None:
            raise RecipeError(
                f"a budget in {kind} says what may be spent, and tune searches how long to train",
                where="budget",
                remedy="write budget: {epochs: 3}, or leave it out",
            )


def _ready(recipe: Recipe) -> Recipe:
    """The recipe with rows to hold out and every searched value written. RecipeError where the rows are too few."""
    from tunewright.data.read import read_lazily

    made = _copy(recipe)
    if made.data.validation is None:
        count = sum(1 for s in made.data.train for _ in read_lazily(s, made.base).records)
        share = held_out(count)
        if share is None:
            raise RecipeError(
                f"{count} training rows are too few to hold any out",
                where="data.validation",
                remedy="write data.validation: FILE with rows to choose by",
            )
        made.data = made.data.model_copy(update={"validation": share})
    # what only a kept run folder needs costs time and changes nothing
    made.train = made.train.model_copy(update={"save_steps": None, "report_to": []})
    return settled(made)[0]


def _copy(recipe: Recipe) -> Recipe:
    made = recipe.model_copy(deep=True)
    made._base, made._out, made._notes = recipe._base, recipe._out, recipe._notes
    return made


@dataclass
class _Work:
    recipe: Recipe
    folder: Path
    trials: int
    until: float | None
    seeds: int
    say: Say
    done: int = 0
    stopped: str | None = None
    tried: dict[Candidate, Tried] = field(default_factory=dict)
    some: TrialRecord | None = None

    def whole(self, pool: Workers) -> TuneResult:
        self.store = Store(self.folder / "trials", also=[cache_folder() / "trials"])
        train = self.recipe.train_for(self.recipe.stages[0])
        assert train.learning_rate is not None
        race = Race(Candidate(train.learning_rate), lambda candidates: self._scores(candidates, pool))
        best = race.run()
        return TuneResult(
            recipe=self.recipe,
            tried=list(self.tried.values()),
            best=None if best is None else self.tried[best],
            metric=self.some.target_metric if self.some else "",
            direction=self.some.direction if self.some else "higher",
            rows=self.some.evaluated if self.some else None,
            stopped=self.stopped,
            unit=self.some.target_unit if self.some else "fraction",
            seeds=self.seeds,
        )

    def _scores(self, candidates: Sequence[Candidate], pool: Workers) -> dict[Candidate, float | None]:
        """Run them, as many as the limits allow; what is in the store costs nothing and is always taken."""
        out: dict[Candidate, float | None] = {}
        for group in self._groups(candidates, pool):
            trials = {c: [Trial(self._words(c), s, self._recipe(c, s)) for s in range(self.seeds)] for c in group}
            keys = {c: [key_of(t.recipe) for t in ts] for c, ts in trials.items()}
            records = run_all([t for ts in trials.values() for t in ts], self.store, pool=pool)
            for c in group:
                out[c] = self._note(c, [records[k] for k in keys[c]])
        return out

    def _groups(self, candidates: Sequence[Candidate], pool: Workers) -> Any:
        """The candidates, as many at once as there are workers, until a limit is met."""
        size = max(1, (pool.asked or 2) // self.seeds)
        for at in range(0, len(candidates), size):
            group = candidates[at : at + size]
            if self.tried and self.until is not None and time.monotonic() >= self.until:
                self.stopped = "the minutes are over"
                return
            room = max(0, self.trials - len(self.tried) * self.seeds) // self.seeds
            if self.tried and room < len(group):
                self.stopped = f"{self.trials} trials are done"
                group = group[:room]
            if group:
                yield group
            if self.stopped:
                return

    def _note(self, candidate: Candidate, records: Sequence[TrialRecord]) -> float | None:
        self.done += len(records)
        found = [_target(r) for r in records]
        score = None if None in found else sum(f for f in found if f is not None) / len(found)
        finished = next((r for r in records if r.finished), None)
        self.some = finished or self.some
        error = next((r.error.message for r in records if r.error is not None), None)
        made = self._recipe(candidate, 0)
        train, budget = made.train_for(made.stages[0]), made.stages[0].budget
        self.tried[candidate] = Tried(
            learning_rate=float(train.learning_rate or 0),
            budget={k: float(v) for k, v in budget.model_dump(exclude_none=True).items()},
            batch_tokens=int(train.batch_tokens or 0),
            score=score,
            steps=finished.stages[0].get("steps") if finished is not None and finished.stages else None,
            seconds=sum(r.seconds for r in records),
            error=error,
        )
        self.say(f"[{self.done}] {self._words(candidate)}: " + ("failed" if score is None else f"{score:.4g}"))
        if score is None:
            return None
        return score if self.some is None or self.some.direction == "higher" else -score

    def _words(self, c: Candidate) -> str:
        made = self._recipe(c, 0)
        budget = ", ".join(f"{v:g} {k}" for k, v in made.stages[0].budget.model_dump(exclude_none=True).items())
        return f"rate {made.train_for(made.stages[0]).learning_rate:g}, {budget}" + (
            f", batch x {c.batch:g}" if c.batch != 1 else ""
        )

    def _recipe(self, c: Candidate, seed: int) -> Recipe:
        """The trial of a candidate: measured on the rows that its seed holds out."""
        made = _copy(self.recipe)
        stage, train = made.stages[0], made.train_for(made.stages[0])
        stage.budget = _longer(stage.budget, c.length)
        batch = max(1, math.ceil((train.batch_tokens or 1) * c.batch))
        update = {"learning_rate": two_digits(c.rate, self.recipe), "batch_tokens": batch, "seed": train.seed + seed}
        if stage.train is not None:
            stage.train = stage.train.model_copy(update=update)
        made.train = made.train.model_copy(update=update)
        made.name = "trial"
        return validation_recipe(made)


def two_digits(rate: float, recipe: Recipe) -> float:
    """A rate as people write it; the recipe's own stays as it is written."""
    own = recipe.train_for(recipe.stages[0]).learning_rate
    return rate if rate == own else float(f"{rate:.2g}")


def _longer(budget: Budget, times: float) -> Budget:
    """A budget so many times as long: whole epochs, where that many are one or more."""
    values: dict[str, float] = {}
    for kind, value in budget.model_dump(exclude_none=True).items():
        longer = value * times
        values[kind] = longer if kind == "epochs" and longer < 1 else max(1, round(longer))
    return Budget.model_validate(values)


def _target(record: TrialRecord) -> float | None:
    tuned = record.tuned
    value = tuned.target if record.finished and tuned is not None else None
    return value if value is not None and math.isfinite(value) else None
