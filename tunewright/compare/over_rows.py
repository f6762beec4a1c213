"""A comparison's intervals over seeds and rows, beside those over seeds alone, where runs kept what each row gave.

No word hangs on them. Differences reach as many standard errors as those over seeds do: that allows for the best having
been picked, with the degrees of freedom of the seeds, which are never more than those over seeds and rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tunewright.compare.standing import LEVEL, critical
from tunewright.measure.crossed import METHOD, Spread, crossed_interval, spread
from tunewright.measure.intervals import Bounds, Interval
from tunewright.report.compare_schema import ArmFigures, Comparison
from tunewright.trials.row_scores import RowScores
from tunewright.trials.trial import TrialRecord

Records = Mapping[str, Mapping[int, TrialRecord]]


def fill(comparison: Comparison, records: Records, gain: Bounds, difference: Bounds) -> None:
    """Put them beside every gain and every difference from the best. `gain`, `difference`: what these can be."""
    sign = 1.0 if comparison.direction == "higher" else -1.0
    best = next((a.name for a in comparison.arms if a.against is not None and a.against.word == "best"), None)
    for arm in comparison.arms:
        own = _rows(records[arm.name])
        found = _spread([own], lambda one: sign * one[0].gains)
        arm.gain_over_rows = None if found is None else crossed_interval(found, bounds=gain)
        against = arm.against
        beside = arm.dropped.behind if arm.dropped is not None else best
        if against is None or against.difference is None or beside is None or against.word == "unclear":
            continue
        both = [own, {s: r for s, r in _rows(records[beside]).items() if s in records[arm.name]}]
        apart = _spread(both, lambda two: sign * (two[0].values - two[1].values))
        if apart is not None:
            wide = _interval(apart, _limit(comparison, arm), difference)
            arm.against = against.model_copy(update={"over_rows": wide})


def _limit(comparison: Comparison, arm: ArmFigures) -> float:
    """Of the paired t, at the look that judged this method."""
    if comparison.race is not None:
        after = arm.dropped.after if arm.dropped is not None else len(comparison.seeds)
        return next(look.limit for look in comparison.race.looks if look.after == after)
    judged = [a for a in comparison.arms if a.against is not None and a.against.word != "unclear"]
    return critical(len(judged), len(comparison.seeds))


def _rows(by_seed: Mapping[int, TrialRecord]) -> dict[int, RowScores | None]:
    return {s: r.rows if r.finished else None for s, r in by_seed.items()}


def _spread(
    arms: Sequence[Mapping[int, RowScores | None]], value: Callable[[Sequence[RowScores]], np.ndarray]
) -> Spread | None:
    """Of the values [rows] of each seed; None where a run kept no rows, or not the same ones, or one seed is all."""
    seeds = list(arms[0])
    kept = [[arm.get(s) for arm in arms] for s in seeds]
    every = [r for of_seed in kept for r in of_seed if r is not None]
    if len(seeds) < 2 or len(every) < len(seeds) * len(arms) or not all(r.same_rows(every[0]) for r in every):
        return None
    table = np.stack([value([r for r in of_seed if r is not None]) for of_seed in kept])
    return spread(table, every[0].counts) if table.shape[1] > 1 else None


def _interval(found: Spread, limit: float, bounds: Bounds) -> Interval:
    low, high = found.mean - limit * found.error, found.mean + limit * found.error
    return Interval(
        value=found.mean,
        low=min(max(low, bounds[0]), found.mean),
        high=max(min(high, bounds[1]), found.mean),
        n=found.seeds,
        level=LEVEL,
        unit="seed",
        method=METHOD,
    )
