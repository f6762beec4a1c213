"""Where a claim's runs are done: the shared store, the pool of processes and the tuning, as one thing that tests
can stand in for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tunewright.claims.claim_run import Runs
from tunewright.recipe import Recipe

if TYPE_CHECKING:
    from tunewright.claims.behaviour import Digests
    from tunewright.claims.claim import Loaded, Scale
    from tunewright.claims.results_io import Behaviour
    from tunewright.trials.pool import Trial
    from tunewright.trials.trial import TrialRecord
    from tunewright.trials.tuning import Tuned

OnRecord = Callable[[Any], None]
TUNING_SEEDS = 2


@dataclass(frozen=True)
class Search:
    """An arm whose learning rate is to be chosen: `make(rate, seed)` gives its ordinary recipe."""

    make: Callable[[float, int], Recipe]
    rates: Sequence[float]


class Engine(Runs, Protocol):
    """What the runner asks for."""

    def trial(self, arm: str, seed: int, recipe: Recipe) -> Any: ...

    def run_all(self, trials: Sequence[Any], on_record: OnRecord) -> list[Any]:
        """The record of each trial, in their order; those in the store already are not run again."""
        ...

    def tune(self, arms: Mapping[str, Search], on_record: OnRecord) -> dict[str, Any]:
        """For each arm the rate chosen on validation rows (None: nothing finished), every attempt, the score."""
        ...

    def digest(
        self, loaded: Loaded, scale: Scale, rates: Mapping[str, float | None], task: Mapping[str, Any]
    ) -> Behaviour | None:
        """What the claim's arms do in their first steps, at these rates (see `behaviour`)."""
        ...


class Local:
    """The store in the cache folder, and processes on this machine that stay from one claim to the next.

    Use it as a context.
    """

    def __init__(self, folder: Path | None = None, workers: int | None = None):
        from tunewright.files.cache import cache_folder
        from tunewright.trials.pool import Workers
        from tunewright.trials.trial import Store

        self.store = Store(folder or cache_folder() / "trials")
        self.pool = Workers(workers)
        self._open = ExitStack()
        self._open.callback(self.pool.close)

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @cached_property
    def _digests(self) -> Digests:
        from tunewright.claims.behaviour import Digests

        return self._open.enter_context(Digests())

    def digest(
        self, loaded: Loaded, scale: Scale, rates: Mapping[str, float | None], task: Mapping[str, Any]
    ) -> Behaviour:
        return self._digests.of(loaded, scale, rates, task)

    def trial(self, arm: str, seed: int, recipe: Recipe) -> Trial:
        from tunewright.trials.pool import Trial

        return Trial(arm=arm, seed=seed, recipe=recipe)

    def _run(self, trials: Sequence[Trial], on_record: OnRecord) -> dict[str, TrialRecord]:
        from tunewright.trials.pool import run_all

        return run_all(trials, self.store, pool=self.pool, on_record=on_record)

    def run_all(self, trials: Sequence[Trial], on_record: OnRecord) -> list[TrialRecord]:
        from tunewright.trials.trial import key_of

        by_key = self._run(trials, on_record)
        return [by_key[key_of(t.recipe)] for t in trials]

    def tune(self, arms: Mapping[str, Search], on_record: OnRecord) -> dict[str, Tuned]:
        from tunewright.trials.tuning import tune_many

        makes, rates = {n: s.make for n, s in arms.items()}, {n: s.rates for n, s in arms.items()}
        return tune_many(makes, rates, lambda trials: self._run(trials, on_record), seeds=TUNING_SEEDS)

    def run_one(self, recipe: Recipe, keep_artefacts: bool) -> TrialRecord:
        from tunewright.trials.trial import run_trial

        return run_trial(recipe, self.store, keep_artefacts=keep_artefacts, threads=self.pool.threads)
