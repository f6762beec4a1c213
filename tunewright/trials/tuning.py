"""One rule by which every method's learning rate is chosen: a grid of factor 3, on validation rows, over two seeds.

The best mean over the seeds wins; while it lies at an end of the grid, the grid goes on there. Validation rows are held
out from training and are never reported; the rows that are reported are never read.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from tunewright.errors import RecipeError
from tunewright.recipe import Keep, Recipe
from tunewright.recipe.naming import PACK
from tunewright.trials.pool import Trial
from tunewright.trials.trial import TrialRecord, key_of

FACTOR = 3.0
FURTHER = 3  # times that the grid goes on at each end

Make = Callable[[float, int], Recipe]
Run = Callable[[list[Trial]], dict[str, TrialRecord]]


class Attempt(BaseModel):
    """One trial of the search."""

    model_config = ConfigDict(extra="forbid")

    rate: float = Field(description="learning rate")
    seed: int
    score: float | None = Field(
        None, description="the target's metric on validation rows; none: the trial did not finish"
    )
    status: str = Field("finished", description="finished, failed or killed")
    key: str = Field("", description="the trial's key")
    seconds: float = Field(0.0, description="what it took")
    error: str = Field("", description="why it did not finish")


class Tuned(BaseModel):
    """The rate that was chosen, and everything that was tried."""

    model_config = ConfigDict(extra="forbid")

    rate: float | None = Field(description="none: no trial finished at any rate")
    attempts: list[Attempt] = Field(default_factory=list)
    score: float | None = Field(None, description="mean over seeds on validation rows at that rate")
    tied: list[float] = Field(
        default_factory=list,
        description="rates that did as well within the noise, rising: their mean lies within one standard deviation "
        "over seeds of the best one's; the best is one of them",
    )
    at_edge: bool = Field(
        False, description="the best rate was still the outermost one when the grid was not extended any further"
    )

    @property
    def smallest(self) -> float | None:
        """The rate at which what is lost is compared: of those that learn as well the smallest, which loses least."""
        return min(self.tied) if self.tied else self.rate


def validation_recipe(recipe: Recipe) -> Recipe:
    """The same training, measured on the validation rows alone. RecipeError when the recipe names none."""
    if recipe.data.validation is None:
        raise RecipeError(
            "there are no validation rows to tune on",
            where="data.validation",
            remedy="write data.validation: 10%, or a file",
        )
    on_validation = training_alone(recipe)
    on_validation.data = recipe.data.model_copy(update={"eval": None})
    on_validation.measurement = on_validation.measurement.model_copy(update={"split": "validation"})
    return on_validation


def training_alone(recipe: Recipe, rows: int | None = None) -> Recipe:
    """The same training with as little measured as can be: full strength, no probes, nothing kept that training
    itself does not need.
    """
    measurement = recipe.measurement.model_copy(
        update={"strengths": [1.0], "few_shot": 0, "drift_sequences": 1, "drift_tokens": 2}
    )
    measurement = measurement.model_copy(update={"rows": rows}) if rows is not None else measurement
    alone = recipe.model_copy(update={"measurement": measurement, "keep": _only_replayed(recipe), "probes": []})
    alone._base = recipe.base
    return alone


def _only_replayed(recipe: Recipe) -> list[Keep]:
    """`keep` entries stay where training itself needs them."""
    named = {n for section in (recipe.data, *(s.data for s in recipe.stages if s.data)) for n in (section.replay or {})}
    needed = bool(named) or any(_needs_keep(recipe))
    return [k for k in recipe.keep if not k.data.startswith(PACK)] if needed else []


def _needs_keep(recipe: Recipe) -> list[bool]:
    from tunewright import catalogue

    reads = []
    named = {"keep", *recipe.kept_names()}
    for _, kind, use in recipe.uses():
        if kind == "method" and catalogue.lookup(use.name) is not None:
            reads += [need.reads in named for need in catalogue.build(use).needs()]
    return reads


def tune(make: Make, rates: Sequence[float], run: Run, seeds: int = 2) -> Tuned:
    """Choose a learning rate. `make(rate, seed)` gives the ordinary recipe; it is measured here on its validation rows
    only.

    `rates`: where the grid begins, usually three of factor 3; `run` runs a list of trials. Of equal rates the middle
    one is taken; where all are equal (none has learnt anything, say) the grid goes on above, then below.
    """
    return tune_many({"": make}, {"": rates}, run, seeds)[""]


def tune_many(
    makes: Mapping[str, Make], rates: Mapping[str, Sequence[float]], run: Run, seeds: int = 2
) -> dict[str, Tuned]:
    """`tune` for several arms (name -> make) side by side, so that no core waits while one of them goes on."""
    searches = {name: _Search(name, make, rates[name], seeds) for name, make in makes.items()}
    while any(s.result is None for s in searches.values()):
        rounds = [s for s in searches.values() if s.result is None]
        records = run([t for s in rounds for t in s.asks()])
        for search in rounds:
            search.hears(records)
    return {name: s.result for name, s in searches.items() if s.result is not None}


class _Search:
    """One arm's grid, round by round: `asks` for trials until `hears` finds the best one inside."""

    def __init__(self, name: str, make: Make, rates: Sequence[float], seeds: int):
        if not rates:
            raise RecipeError("there are no learning rates to choose from", where="rates", remedy="give at least one")
        self.name, self.make, self.seeds = name, make, seeds
        self.grid = sorted(set(map(float, rates)))
        self.tried: dict[float, list[Attempt]] = {}
        self.direction = "higher"
        self.further = [0, 0]
        self.keys: dict[tuple[float, int], str] = {}
        self.result: Tuned | None = None

    def asks(self) -> list[Trial]:
        fresh = [r for r in self.grid if r not in self.tried]
        arm = f"{self.name} tuning".strip()
        trials = {(r, s): Trial(arm, s, validation_recipe(self.make(r, s))) for r in fresh for s in range(self.seeds)}
        self.keys = {at: key_of(t.recipe) for at, t in trials.items()}
        return list(trials.values())

    def hears(self, records: Mapping[str, TrialRecord]) -> None:
        for (rate, seed), key in self.keys.items():
            record = records[key]
            self.direction = record.direction if record.finished else self.direction
            self.tried.setdefault(rate, []).append(_attempt(rate, seed, record, key))
        best = _best(self.grid, self.tried, self.direction)
        every = [a for r in self.grid for a in self.tried[r]]
        side = self._side(best)
        if side is None or self.further[side] >= FURTHER:
            score = _mean(self.tried[best]) if best is not None else None
            edge = best is not None and side is not None
            tied = _tied(best, self.tried)
            self.result = Tuned(rate=best, attempts=every, score=score, at_edge=edge, tied=tied)
            return
        self.further[side] += 1
        self.grid = [self.grid[0] / FACTOR, *self.grid] if side == 0 else [*self.grid, self.grid[-1] * FACTOR]

    def _side(self, best: float | None) -> int | None:
        """Where the grid should go on: 0 below, 1 above, None nowhere."""
        scores = {_mean(self.tried[r]) for r in self.grid}
        if best is not None and len(self.grid) > 1 and len(scores) == 1:
            # no rate told itself apart, as where none has learnt anything yet: larger ones may, then smaller ones
            return 1 if self.further[1] < FURTHER else 0
        # nothing finished: a smaller rate may, for instance where every loss was not finite
        return 0 if best is None or best == self.grid[0] else 1 if best == self.grid[-1] else None


def _attempt(rate: float, seed: int, record: TrialRecord, key: str) -> Attempt:
    tuned = record.tuned
    score = tuned.target if record.finished and tuned is not None else None
    score = score if score is not None and math.isfinite(score) else None
    why = record.error.message if record.error is not None else ""
    return Attempt(rate=rate, seed=seed, score=score, status=record.status, key=key, seconds=record.seconds, error=why)


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


def _tied(best: float | None, tried: Mapping[float, Sequence[Attempt]]) -> list[float]:
    """Rates whose mean lies within one standard deviation of the best one's, the larger of both over seeds."""
    if best is None:
        return []
    found = {r: [a.score for a in attempts if a.score is not None] for r, attempts in tried.items()}
    whole = {r: scores for r, scores in found.items() if len(scores) == len(tried[r]) and scores}
    top = whole[best]

    def near(scores: Sequence[float]) -> bool:
        spread = max(_deviation(scores), _deviation(top))
        return 0 < spread >= abs(sum(scores) / len(scores) - sum(top) / len(top))

    return sorted(r for r, scores in whole.items() if r == best or near(scores))


def _deviation(scores: Sequence[float]) -> float:
    return statistics.stdev(scores) if len(scores) > 1 else 0.0
