"""What a claim's own `measure(run, seed)` works with: trials by arm and seed, a folder, the lab task's recipe, the
scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tunewright.claims.claim import Arm, Claim, Scale
from tunewright.claims.lab.overlay import merged, todays, with_methods
from tunewright.errors import ClaimError, did_you_mean
from tunewright.recipe import Recipe


class Runs(Protocol):
    """Where the runs of a claim's own measure are done."""

    def run_one(self, recipe: Recipe, keep_artefacts: bool) -> Any: ...


def recipe_of(
    task: Mapping[str, Any],
    claim: Claim,
    arm: Arm,
    seed: int,
    rate: float | None,
    overlay: Mapping[str, Any] | None = None,
) -> Recipe:
    """An arm's recipe: the lab task's, the claim's overlay, the arm's, seed and rate, then `overlay`; methods and
    budget last.
    """
    own: dict[str, Any] = {
        "name": f"{arm.name}-{seed}",
        "train": {"seed": seed},
        "measurement": {"strengths": list(claim.strengths)},
    }
    if rate is not None:
        own["train"]["learning_rate"] = rate
    mapping = todays(task)
    for over in (claim.extra, arm.extra, own, overlay or {}):
        mapping = merged(mapping, todays(over))
    return Recipe(**with_methods(mapping, arm.methods, claim.budget))


@dataclass
class ClaimRun:
    """One claim at one scale, while it is run."""

    claim: Claim
    scale: Scale
    task: Mapping[str, Any]  # the lab task's recipe, without methods
    engine: Runs
    folder: Path  # for what measure writes; kept between processes
    rates: dict[str, float | None] = field(default_factory=dict)  # arm -> rate chosen on validation rows
    cut: Callable[[Recipe], Recipe] = lambda recipe: recipe  # laid on recipes that measure assembles itself
    first: int = 0  # the number of its first seed
    choices: int | None = None  # how many of a merge's choices are weighed; none: all
    watch: Callable[[str, Mapping[str, Any]], None] = lambda name, tensors: None  # told of every merge's tensors

    @property
    def seeds(self) -> range:
        """The numbers of its seeds."""
        return range(self.first, self.first + self.claim.seeds)

    def arm(self, name: str) -> Arm:
        """An arm by name. ClaimError with the nearest names."""
        arm = next((a for a in self.claim.arms if a.name == name), None)
        if arm is None:
            raise ClaimError(
                f"the claim has no arm '{name}'", remedy=did_you_mean(name, [a.name for a in self.claim.arms])
            )
        return arm

    def recipe(self, arm: str, seed: int, **overlay: Any) -> Recipe:
        """An arm's recipe at its chosen rate; `overlay` is laid over it, key by key."""
        return recipe_of(self.task, self.claim, self.arm(arm), seed, self.rates.get(arm), overlay)

    def trial(self, arm: str, seed: int, *, keep_artefacts: bool = False, **overlay: Any) -> Any:
        """The record of an arm's run, from the store where it has been run before.

        `keep_artefacts`: with the adapter or delta and the run's folder, which the record names. ClaimError for a run
        that did not finish.
        """
        record = self.engine.run_one(self.recipe(arm, seed, **overlay), keep_artefacts)
        if record.status != "finished":
            why = record.error.message if record.error is not None else "no reason is known"
            raise ClaimError(f"the run of '{arm}' with seed {seed} {record.status}: {why}", where=record.key)
        return record
