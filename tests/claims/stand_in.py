"""Engines that stand in for the pool of processes: one runs recipes in this process, one makes figures up by a formula."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.recipe import Recipe


@dataclass
class Reading:
    strength: float
    target: float | None
    kept: dict[str, float] = field(default_factory=dict)
    drift: float | None = None


@dataclass
class Record:
    key: str
    arm: str
    seed: int
    status: str = "finished"
    error: dict[str, Any] | None = None
    base: Any = None
    strengths: list[Any] = field(default_factory=list)
    direction: str = "higher"
    probes: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    seconds: float = 1.0
    attempt: int = 1


@dataclass
class Trial:
    arm: str
    seed: int
    recipe: Recipe


@dataclass
class Tuned:
    rate: float | None
    attempts: list[dict[str, Any]]
    score: float = 0.0


def key_of(recipe: Recipe) -> str:
    tree = recipe.model_dump(mode="json")
    del tree["name"]
    return hashlib.sha256(json.dumps(tree, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Engine:
    """`run(recipe) -> Record`; finished records are kept by key, so that what was run is counted in `ran`."""

    def __init__(self, run: Callable[[str, str, int, Recipe], Record]):
        self.run, self.store, self.ran = run, {}, []

    def trial(self, arm: str, seed: int, recipe: Recipe) -> Trial:
        return Trial(arm, seed, recipe)

    def _one(self, arm: str, seed: int, recipe: Recipe) -> Record:
        key = key_of(recipe)
        if key not in self.store:
            self.ran.append((arm, seed))
            self.store[key] = self.run(key, arm, seed, recipe)
        return self.store[key]

    def run_all(self, trials: Sequence[Trial], on_record: Callable[[Any], None]) -> list[Record]:
        found = []
        for t in trials:
            found.append(self._one(t.arm, t.seed, t.recipe))
            on_record(found[-1])
        return found

    def tune(self, make: Any, rates: Sequence[float], on_record: Callable[[Any], None]) -> Tuned:
        scores: dict[float, float] = {}
        attempts = []
        for rate in rates:
            for seed in range(2):
                record = self._one("tuning", seed, make(rate, seed))
                on_record(record)
                ok = record.status == "finished"
                score = record.strengths[-1].target if ok else None
                attempts.append({"rate": rate, "seed": seed, "score": score, "status": record.status})
                if ok:
                    scores[rate] = scores.get(rate, 0.0) + score / 2
        best = max(scores, key=lambda r: scores[r]) if scores else None
        return Tuned(best, attempts, scores[best] if best is not None else 0.0)

    def run_one(self, recipe: Recipe, keep_artefacts: bool) -> Record:
        return self._one("one", recipe.train.seed, recipe)


def real(folder: Path) -> Callable[[str, str, int, Recipe], Record]:
    """Runs a recipe in this process and reads its report."""

    def run(key: str, arm: str, seed: int, recipe: Recipe) -> Record:
        from tunewright.run import run as run_recipe

        report = run_recipe(recipe, folder / key, quiet=True).report
        base = Reading(0.0, report.target.before.value, {k.name: k.before.value for k in report.kept}, 0.0)
        strengths = [Reading(s.strength, s.target.value, {n: v.value for n, v in s.kept.items()}, s.drift.value) for s in report.trade]
        return Record(
            key, arm, seed, base=base, strengths=strengths, direction=report.target.direction, cost=report.cost.model_dump(),
            recipe={"made_with": {"model_hash": report.model.hash}}, versions=report.run.versions, seconds=report.run.seconds,
        )  # fmt: skip

    return run
