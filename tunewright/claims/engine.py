"""Where a claim's runs are done: the shared store, the pool of processes and the tuning, as one thing that tests can stand in for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tunewright.recipe import Recipe

if TYPE_CHECKING:
    from tunewright.pool import Trial
    from tunewright.trials import TrialRecord
    from tunewright.tuning import Tuned

OnRecord = Callable[[Any], None]


class Engine(Protocol):
    """What the runner asks for."""

    def trial(self, arm: str, seed: int, recipe: Recipe) -> Any: ...

    def run_all(self, trials: Sequence[Any], on_record: OnRecord) -> list[Any]:
        """The record of each trial, in their order; those in the store already are not run again."""
        ...

    def tune(self, make: Callable[[float, int], Recipe], rates: Sequence[float], on_record: OnRecord) -> Any: ...

    def run_one(self, recipe: Recipe, keep_artefacts: bool) -> Any: ...


class Local:
    """The store in the cache folder, and processes on this machine."""

    def __init__(self, folder: Path | None = None, workers: int | None = None):
        from tunewright.models.cache import cache_folder
        from tunewright.trials import Store

        self.store = Store(folder or cache_folder() / "trials")
        self.workers = workers

    def trial(self, arm: str, seed: int, recipe: Recipe) -> Trial:
        from tunewright.pool import Trial

        return Trial(arm=arm, seed=seed, recipe=recipe)

    def run_all(self, trials: Sequence[Trial], on_record: OnRecord) -> list[TrialRecord]:
        from tunewright.pool import run_all
        from tunewright.trials import key_of

        found = run_all(trials, self.store, workers=self.workers, on_record=on_record)
        return [found[key_of(t.recipe)] for t in trials]

    def tune(self, make: Callable[[float, int], Recipe], rates: Sequence[float], on_record: OnRecord) -> Tuned:
        from tunewright.pool import run_all
        from tunewright.tuning import tune

        return tune(make, rates, lambda trials: run_all(trials, self.store, workers=self.workers, on_record=on_record))

    def run_one(self, recipe: Recipe, keep_artefacts: bool) -> TrialRecord:
        from tunewright.trials import run_trial

        return run_trial(recipe, self.store, keep_artefacts=keep_artefacts)
