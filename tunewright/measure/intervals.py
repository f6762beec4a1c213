"""Intervals: what a figure's uncertainty is, in what unit it was resampled, and by which method.

The unit matters more than the formula: rows, documents and sequences describe one run only ("this run"); a claim
about a method needs seeds (`t_interval` over per-seed differences).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

Unit = Literal["row", "document", "sequence", "seed"]

RESAMPLES = 2000
_BLOCK = 4_000_000  # entries of one block of resampling counts: bounds memory, not the result


class Interval(BaseModel):
    """A figure with its interval. `low` and `high` are None where one unit alone says nothing about the spread."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float = Field(description="the figure itself, in the metric's unit")
    low: float | None = Field(None, description="lower end; none with fewer than two units")
    high: float | None = Field(None, description="upper end; none with fewer than two units")
    n: int = Field(ge=0, description="number of units")
    level: float = Field(0.95, gt=0, lt=1, description="coverage that the method aims at")
    unit: Unit = Field("row", description="what was resampled or counted")
    method: str = Field("", description="how the interval was made")

    @property
    def known(self) -> bool:
        """Whether the interval has ends."""
        return self.low is not None and self.high is not None

    def excludes(self, value: float) -> bool:
        """Whether a value lies outside; False when the interval has no ends."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high

    def map(self, f: Callable[[float], float]) -> Interval:
        """The interval of an increasing function of the figure (nats to bits, loss to perplexity)."""
        ends = [None if x is None else f(x) for x in (self.low, self.high)]
        return self.model_copy(update={"value": f(self.value), "low": ends[0], "high": ends[1]})


def _finite(values: Sequence[float] | np.ndarray, what: str) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"{what} must be a list of at least one number, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{what}[{int(np.flatnonzero(~np.isfinite(x))[0])}] is not finite")
    return x


def wilson(successes: int, n: int, *, level: float = 0.95, unit: Unit = "row") -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927): sane at 0 and n, unlike the normal one."""
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no proportion")
    from scipy.stats import binomtest

    ci = binomtest(successes, n).proportion_ci(level, method="wilson")
    return Interval(
        value=successes / n, low=float(ci.low), high=float(ci.high), n=n, level=level, unit=unit, method="wilson"
    )


def t_interval(values: Sequence[float], *, level: float = 0.95, unit: Unit = "seed") -> Interval:
    """Student's interval of a mean, for a handful of seeds."""
    x = _finite(values, "values")
    n, mean = len(x), float(x.mean())
    if n < 2:
        return Interval(value=mean, n=n, level=level, unit=unit, method="t")
    from scipy.stats import t

    half = float(t.ppf(0.5 + level / 2, n - 1) * x.std(ddof=1) / math.sqrt(n))
    return Interval(value=mean, low=mean - half, high=mean + half, n=n, level=level, unit=unit, method="t")


def _group_sums(x: np.ndarray, w: np.ndarray, groups: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sums of w*x and of w by group (each value its own group when none are given)."""
    if groups is None:
        return w * x, w
    if len(groups) != len(x):
        raise ValueError(f"{len(groups)} groups for {len(x)} values")
    index: dict[Hashable, int] = {}
    which = np.array([index.setdefault(g, len(index)) for g in groups])
    return np.bincount(which, w * x), np.bincount(which, w)


def _bca(draws: np.ndarray, value: float, left_out: np.ndarray, level: float) -> tuple[float, float]:
    """Ends of the bias-corrected and accelerated bootstrap (Efron 1987) from draws and leave-one-out values."""
    from scipy.stats import norm

    spread = left_out.mean() - left_out
    below = (np.sum(draws < value) + 0.5 * np.sum(draws == value)) / len(draws)
    if not spread.any() or not 0 < below < 1:
        low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
        return float(low), float(high)
    z0 = norm.ppf(below)
    a = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    z = z0 + norm.ppf([0.5 - level / 2, 0.5 + level / 2])
    low, high = np.quantile(draws, norm.cdf(z0 + z / (1 - a * z)))
    return float(low), float(high)


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | None = None,
    *,
    weights: Sequence[float] | np.ndarray | None = None,
    level: float = 0.95,
    unit: Unit = "row",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Interval of a (weighted) mean by resampling rows, or whole groups such as documents (BCa).

    With weights (tokens of a row, say) the figure is sum(w v) / sum(w) and both sums are resampled together. The
    draws use a generator of their own: equal inputs give equal intervals.
    """
    x = _finite(values, "values")
    w = np.ones_like(x) if weights is None else _finite(weights, "weights")
    if len(w) != len(x) or (w < 0).any() or not w.sum() > 0:
        raise ValueError("weights must be as many as values, none negative, not all zero")
    top, bottom = _group_sums(x, w, groups)
    value, n = float(top.sum() / bottom.sum()), len(top)
    if n < 2:
        return Interval(value=value, n=n, level=level, unit=unit, method="bootstrap")
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // n)
    draws = []
    for start in range(0, resamples, block):
        counts = rng.multinomial(n, np.full(n, 1 / n), size=min(block, resamples - start))
        weight = counts @ bottom
        draws.append((counts @ top)[weight > 0] / weight[weight > 0])
    rest = bottom.sum() - bottom
    keep = rest > 0
    left_out = (top.sum() - top[keep]) / rest[keep]
    low, high = _bca(np.concatenate(draws), value, left_out, level)
    return Interval(value=value, low=low, high=high, n=n, level=level, unit=unit, method="bootstrap")


def paired_difference(
    before: Sequence[float],
    after: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    *,
    weights: Sequence[float] | None = None,
    level: float = 0.95,
    unit: Unit = "row",
    seed: int = 0,
) -> Interval:
    """Interval of mean(after - before) on the same rows: the pairs are resampled, so what rows share cancels."""
    a, b = _finite(before, "before"), _finite(after, "after")
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values before and {len(b)} after: a paired test needs the same rows")
    out = bootstrap_mean(b - a, groups, weights=weights, level=level, unit=unit, seed=seed)
    return out.model_copy(update={"method": "paired bootstrap"})


def bootstrap_statistic(
    statistic: Callable[[np.ndarray], float],
    n: int,
    *,
    level: float = 0.95,
    unit: Unit = "row",
    seed: int = 0,
    resamples: int = 500,
) -> Interval:
    """Percentile interval of any figure of n rows: `statistic(indices)` gets the rows' indices, drawn with repeats."""
    value = float(statistic(np.arange(n)))
    if n < 2:
        return Interval(value=value, n=n, level=level, unit=unit, method="percentile bootstrap")
    rng = np.random.default_rng(seed)
    draws = [float(statistic(rng.integers(0, n, n))) for _ in range(resamples)]
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(
        value=value, low=float(low), high=float(high), n=n, level=level, unit=unit, method="percentile bootstrap"
    )
