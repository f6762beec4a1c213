"""Engines that stand in for the pool of processes: one runs recipes in this process, one makes figures up by a
formula.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunewright.claims.engine import Search
from tunewright.recipe import Recipe
from tunewright.trials.trial import Reading, Store, TrialError, TrialRecord, run_trial
from tunewright.trials.tuning import Attempt, Tuned


def reading(
    strength: float, target: float | None, kept: dict[str, float] | None = None, drift: float | None = None
) -> Reading:
    return Reading(strength=strength, target=target, kept=kept or {}, drift=drift)


def record(key: str, arm: str, seed: int, **more: Any) -> TrialRecord:
    return TrialRecord(key=key, arm=arm, seed=seed, started=datetime.now(UTC), seconds=1.0, **more)


def failed(key: str, arm: str, seed: int, message: str) -> TrialRecord:
    return record(key, arm, seed, status="failed", error=TrialError(type="NonFiniteError", message=message))


@dataclass
class Trial:
    arm: str
    seed: int
    recipe: Recipe


def key_of(recipe: Recipe) -> str:
    tree = recipe.model_dump(mode="json")
    del tree["name"]
    return hashlib.sha256(json.dumps(tree, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Engine:
    """`run(recipe) -> TrialRecord`; finished records are kept by key, so that what was run is counted in `ran`."""

    def __init__(self, run: Callable[[str, str, int, Recipe], TrialRecord]):
        self.run, self.store, self.ran = run, {}, []

    def trial(self, arm: str, seed: int, recipe: Recipe) -> Trial:
        return Trial(arm, seed, recipe)

    def _one(self, arm: str, seed: int, recipe: Recipe) -> TrialRecord:
        key = key_of(recipe)
        if key not in self.store:
            self.ran.append((arm, seed))
            self.store[key] = self.run(key, arm, seed, recipe)
        return self.store[key]

    def run_all(self, trials: Sequence[Trial], on_record: Callable[[Any], None]) -> list[TrialRecord]:
        found = []
        for t in trials:
            found.append(self._one(t.arm, t.seed, t.recipe))
            on_record(found[-1])
        return found

    def tune(self, arms: Mapping[str, Search], on_record: Callable[[Any], None]) -> dict[str, Tuned]:
        return {name: self._tune(name, search, on_record) for name, search in arms.items()}

    def _tune(self, name: str, search: Search, on_record: Callable[[Any], None]) -> Tuned:
        scores: dict[float, float] = {}
        attempts = []
        for rate in search.rates:
            for seed in range(2):
                found = self._one("tuning", seed, search.make(rate, seed))
                on_record(found)
                score = found.tuned.target if found.finished else None
                attempts.append(Attempt(rate=rate, seed=seed, score=score, status=found.status))
                if score is not None:
                    scores[rate] = scores.get(rate, 0.0) + score / 2
        best = max(scores, key=lambda r: scores[r]) if scores else None
        return Tuned(rate=best, attempts=attempts, score=scores[best] if best is not None else None)

    def digest(self, loaded: Any, scale: Any, rates: Mapping[str, Any], task: Mapping[str, Any]) -> None:
        return None

    def run_one(self, recipe: Recipe, keep_artefacts: bool) -> TrialRecord:
        return self._one("one", recipe.train.seed, recipe)


def real(folder: Path) -> Callable[[str, str, int, Recipe], TrialRecord]:
    """Runs a recipe in this process."""
    store = Store(folder)
    return lambda key, arm, seed, recipe: run_trial(recipe, store, arm=arm)
