"""What is asked of a pool or a cluster: trials, as JSON values for whoever runs them."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from tunewright.recipe import Recipe
from tunewright.trials.trial import Store, TrialRecord


@dataclass(frozen=True)
class Trial:
    """One recipe to run, as an arm (a method or group of methods) with a seed."""

    arm: str
    seed: int
    recipe: Recipe


Landing = Generator[tuple[str, TrialRecord], None, None]


def order_of(key: str, trial: Trial, store: Store, threads: int) -> dict[str, Any]:
    """What a worker is told: JSON values alone."""
    import yaml

    recipe = yaml.safe_load(trial.recipe.dump(absolute=True))
    return {
        "key": key,
        "arm": trial.arm,
        "recipe": recipe,
        "base": str(trial.recipe.base),
        "store": str(store.folder.resolve()),
        "threads": threads,
    }
