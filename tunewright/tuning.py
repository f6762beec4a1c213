"""One rule by which every method's learning rate is chosen: a grid of factor 3, on validation rows, over two seeds.

The best mean over the seeds wins; while it lies at an end of the grid, the grid goes on there. Validation rows are held out from
training and are never reported; the rows that are reported are never read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict, Field

from tunewright.errors import RecipeError
from tunewright.pool import Trial
from tunewright.recipe import Recipe
from tunewright.trials import TrialRecord, key_of

FACTOR = 3.0
FURTHER = 3  # times that the grid goes on at each end

Make = Callable[[float, int], Recipe]
Run = Callable[[list[Trial]], dict[str, TrialRecord]]


class Attempt(BaseModel):
    """One trial of the search."""

    model_config = ConfigDict(extra="forbid")

    rate: float = Field(description="learning rate")
    seed: int
    score: float | None = Field(None, description="the target's metric on validation rows; none: the trial did not finish")
    status: str = Field("finished", description="finished, failed or killed")
    key: str = Field("", description="the trial's key")
    seconds: float = Field(0.0, description="what it took")


class Tuned(BaseModel):
    """The rate that was chosen, and everything that was tried."""

    model_config = ConfigDict(extra="forbid")

    rate: float | None = Field(description="none: no trial finished at any rate")
    attempts: list[Attempt] = Field(default_factory=list)
    score: float | None = Field(None, description="mean over seeds on validation rows at that rate")
    at_edge: bool = Field(False, description="the best rate was still the outermost one when the grid was not extended any further")


def validation_recipe(recipe: Recipe) -> Recipe:
    """The same training, measured on the validation rows alone. RecipeError when the recipe names none."""
    if recipe.data.validation is None:
        raise RecipeError("there are no validation rows to tune on", where="data.validation", remedy="write data.validation: 10%, or a file")
    data = recipe.data.model_copy(update={"eval": None})
    evaluation = recipe.evaluation.model_copy(update={"split": "validation", "strengths": [1.0], "few_shot": 0})
    made = recipe.model_copy(update={"data": data, "evaluation": evaluation, "keep": _only_replayed(recipe), "measure": []})
    made._base = recipe.base
    return made


def _only_replayed(recipe: Recipe) -> list[object]:
    """`keep` entries stay where training itself needs them."""
    named = {n for section in (recipe.data, *(s.data for s in recipe.stages if s.data)) for n in (section.replay or {})}
    needed = bool(named) or any(_needs_keep(recipe))
    return list(recipe.keep) if needed else []


def _needs_keep(recipe: Recipe) -> list[bool]:
    from tunewright import catalogue

    found = []
    for _, kind, use in recipe.uses():
        if kind == "method" and catalogue.lookup(use.name) is not None:
            found += [getattr(need, "source", None) == "keep" for need in catalogue.build(use).needs()]
    return found


def tune(make: Make, rates: Sequence[float], run: Run, seeds: int = 2) -> Tuned:
    """Choose a learning rate. `make(rate, seed)` gives the ordinary recipe; it is measured here on its validation rows only.

    `rates`: where the grid begins, usually three of factor 3; `run` runs a list of trials. Of equal rates the middle one is taken.
    """
    if not rates:
        raise RecipeError("there are no learning rates to choose from", where="rates", remedy="give at least one")
    tried: dict[float, list[Attempt]] = {}
    direction = "higher"
    grid = sorted(set(map(float, rates)))
    further = [0, 0]
    while True:
        fresh = [r for r in grid if r not in tried]
        trials = {(r, s): Trial(f"tune {r:.3g}", s, validation_recipe(make(r, s))) for r in fresh for s in range(seeds)}
        keys = {at: key_of(t.recipe) for at, t in trials.items()}
        records = run(list(trials.values()))
        for rate, seed in trials:
            record = records[keys[rate, seed]]
            direction = record.direction if record.finished else direction
            tried.setdefault(rate, []).append(_attempt(rate, seed, record, keys[rate, seed]))
        best = _best(grid, tried, direction)
        every = [a for r in grid for a in tried[r]]
        if best is None:  # nothing finished: a smaller rate may, for instance where every loss was not finite
            if further[0] >= FURTHER:
                return Tuned(rate=None, attempts=every)
            further[0] += 1
            grid = [grid[0] / FACTOR, *grid]
            continue
        side = 0 if best == grid[0] else 1 if best == grid[-1] else None
        if side is None or further[side] >= FURTHER:
            return Tuned(rate=best, attempts=every, score=_mean(tried[best]), at_edge=side is not None)
        further[side] += 1
        grid = [grid[0] / FACTOR, *grid] if side == 0 else [*grid, grid[-1] * FACTOR]


def _attempt(rate: float, seed: int, record: TrialRecord, key: str) -> Attempt:
    tuned = record.tuned
    score = tuned.target if record.finished and tuned is not None else None
    score = score if score is not None and math.isfinite(score) else None
    return Attempt(rate=rate, seed=seed, score=score, status=record.status, key=key, seconds=record.seconds)


def _mean(attempts: Sequence[Attempt]) -> float | None:
    """Of a rate at which any seed failed there is none: a rate that fails one time in two is no rate to choose."""
    scores = [a.score for a in attempts]
    return sum(s for s in scores if s is not None) / len(scores) if scores and None not in scores else None


def _best(grid: Sequence[float], tried: dict[float, list[Attempt]], direction: str) -> float | None:
    sign = 1 if direction == "higher" else -1
    means = {r: sign * m for r in grid if (m := _mean(tried[r])) is not None}
    if not means:
        return None
    equal = [r for r in means if means[r] == max(means.values())]
    return equal[(len(equal) - 1) // 2]
