"""The interval of a mean over seeds and rows at once: what other seeds and other rows would give.

Every seed answers the same rows, so that an interval over seeds alone knows nothing of the choice of rows. With d[s, r]
one value a seed and row (of a paired difference, say),

    d[s, r] = mean + a_s + b_r + e_sr        seeds and rows drawn at random, crossed

the mean's variance is s_a^2 / S + s_b^2 / R + s_e^2 / (S R), estimated from the mean squares of a two-way table as
(MS_seeds + MS_rows - MS_rest) / (S R), with Satterthwaite's degrees of freedom (Satterthwaite 1946). It is never taken
to be less than that over seeds alone, MS_seeds / (S R), nor the degrees of freedom to be fewer than S - 1. Of weighted
means (tokens of a row) the row's share in the mean stands for its value.

How often it covers: `python -m tunewright.claims.simulate_rows` (docs/claims.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tunewright.measure.intervals import Bounds, Interval, alike

METHOD = "t over seeds and rows"


@dataclass(frozen=True)
class Spread:
    """How sure a mean over seeds and rows is."""

    mean: float
    error: float  # standard error
    df: float  # degrees of freedom of the t that its interval takes
    seeds: int
    rows: int


def spread(values: np.ndarray, weights: np.ndarray | None = None) -> Spread:
    """Of values [seeds, rows]. `weights` [rows]: what each row counts in the mean. ValueError for fewer than two of
    either, or values that are not finite.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or min(x.shape) < 2 or not np.isfinite(x).all():
        raise ValueError(f"needs finite values [seeds, rows], two of each at least, got {list(x.shape)}")
    seeds, rows = x.shape
    if weights is not None:
        w = np.asarray(weights, dtype=np.float64)
        mean = float((x @ w).mean() / w.sum())
        x = mean + rows * w * (x - mean) / w.sum()
    mean = float(x.mean())
    by_seed, by_row = x.mean(1), x.mean(0)
    ms_seeds = rows * float(by_seed.var(ddof=1))
    ms_rows = seeds * float(by_row.var(ddof=1))
    rest = x - by_seed[:, None] - by_row[None, :] + mean
    ms_rest = float((rest**2).sum()) / ((seeds - 1) * (rows - 1))
    total = ms_seeds + ms_rows - ms_rest
    if total <= ms_seeds or not total:
        return Spread(mean, math.sqrt(ms_seeds / (seeds * rows)), seeds - 1, seeds, rows)
    known = ms_seeds**2 / (seeds - 1) + ms_rows**2 / (rows - 1) + ms_rest**2 / ((seeds - 1) * (rows - 1))
    return Spread(mean, math.sqrt(total / (seeds * rows)), max(seeds - 1, total**2 / known), seeds, rows)


def crossed_interval(found: Spread, *, level: float = 0.95, bounds: Bounds | None = None) -> Interval:
    """The t interval of a mean over seeds and rows, within what it can be at all."""
    from scipy.stats import t

    if not found.error and bounds is not None:  # no row and no seed differs: others may
        told = alike(found.mean, found.rows, bounds, level=level, unit="seed")
        return told.model_copy(update={"n": found.seeds})
    half = float(t.ppf(0.5 + level / 2, found.df)) * found.error
    low, high = found.mean - half, found.mean + half
    if bounds is not None:
        low, high = min(max(low, bounds[0]), found.mean), max(min(high, bounds[1]), found.mean)
    return Interval(value=found.mean, low=low, high=high, n=found.seeds, level=level, unit="seed", method=METHOD)
