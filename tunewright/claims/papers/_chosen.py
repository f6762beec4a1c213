"""What claims share that choose within their own measure: in one reading rows to choose by and rows to judge by.

Rows of both stand in turn, so that a reading of any length has some of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.claims.claim_run import recipe_of
from tunewright.errors import ClaimError

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun


def in_turn(*parts: Sequence[Any]) -> list[Any]:
    """One row of each part after the other, as many of each as the shortest has."""
    return [row for together in zip(*parts, strict=False) for row in together]


def recipe(run: ClaimRun, arm: str, seed: int, rate: float | None, **overlay: Any) -> Any:
    """An arm's recipe at a rate, on data of the claim's own alone: the lab task's are left out, and so is drift."""
    little = {**run.task["evaluation"], "few_shot": 0, "drift_sequences": 1, "drift_tokens": 2}
    plain = {**dict(run.task), "data": {}, "keep": [], "evaluation": little}
    return recipe_of(plain, run.claim, run.arm(arm), seed, rate, overlay)


def finished(run: ClaimRun, made: Any) -> Any:
    """The record of a recipe's run. ClaimError where it did not finish."""
    found = run.engine.run_one(made, False)
    if found.status != "finished":
        why = found.error.message if found.error is not None else "no reason is known"
        raise ClaimError(f"the run of '{made.name}' {found.status}: {why}", where=found.key)
    return found


def record(run: ClaimRun, arm: str, seed: int, rate: float | None, **overlay: Any) -> Any:
    """The record of an arm at a rate, on data of the claim's own."""
    return finished(run, recipe(run, arm, seed, rate, **overlay))


def means(record: Any, parts: int, *, base: bool = False) -> list[float]:
    """The tuned model's (or the base's) mean over the rows of each part, which stand in turn."""
    rows = record.rows
    values = rows.values - rows.gains if base else rows.values
    weights = np.ones_like(values) if rows.counts is None else rows.counts
    return [float(np.average(values[i::parts], weights=weights[i::parts])) for i in range(parts)]


def lowest(records: Iterable[Any]) -> float:
    """The loss of the rows to judge by, in the run that has the lowest of those to choose by: they stand in turn."""
    return min((means(r, 2) for r in records), key=lambda both: both[0])[1]


def highest(records: Iterable[Any], parts: int = 2) -> list[float]:
    """The shares of each part's rows, in the run that has the highest of the first part's; the first of equals."""
    return max((means(r, parts) for r in records), key=lambda each: each[0])
