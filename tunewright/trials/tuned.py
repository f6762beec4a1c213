"""What a race among settings found, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.recipe import Recipe


@dataclass(frozen=True)
class Tried:
    """One setting of the race. `epochs` are those of the recipe's rows, `score` the target on held-out rows (the mean
    over seeds), none where a run failed, which `error` says; `seconds` of all its runs.
    """

    learning_rate: float
    budget: dict[str, float]
    batch_tokens: int
    score: float | None
    steps: int | None
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class TuneFigures:
    """What was found. `tried` in the order of asking, the recipe's own values first; `best` is one of them, none where
    every run failed; `metric` and `direction` say what was judged by, `rows` on how many rows of each of `seeds`.
    """

    recipe: Recipe
    tried: list[Tried]
    best: Tried | None
    metric: str
    direction: str
    rows: int | None
    stopped: str | None = None
    written: Path | None = None
    unit: str = "fraction"
    seeds: int = 1

    @property
    def own(self) -> Tried:
        """The recipe's own values."""
        return self.tried[0]

    @property
    def changed(self) -> dict[str, Any]:
        """What differs from the recipe: values by the key's path in a recipe; empty where its own are the best."""
        return {} if self.best is None or self.best == self.own else values_of(self.best)

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        tried = [vars(t) for t in self.tried]
        return {
            "metric": self.metric,
            "direction": self.direction,
            "rows": self.rows,
            "seeds": self.seeds,
            "best": None if self.best is None else vars(self.best),
            "tried": tried,
            "stopped": self.stopped,
            "written": None if self.written is None else str(self.written),
        }


def values_of(tried: Tried) -> dict[str, Any]:
    """A setting as a recipe's values, by path."""
    return {
        "train.learning_rate": tried.learning_rate,
        "train.batch_tokens": tried.batch_tokens,
        "budget": tried.budget,
    }
