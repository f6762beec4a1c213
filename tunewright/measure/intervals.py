"""Intervals: what a figure's uncertainty is, in what unit it was resampled, and by which method.

The unit matters more than the formula: rows, documents and sequences describe one run only ("this run"); a claim
about a method needs seeds (`t_interval` over per-seed differences). Every interval made here holds its figure, and one
of a bounded quantity stays within its bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

Unit = Literal["row", "document", "sequence", "seed"]
Bounds = tuple[float, float]
SHARE: Bounds = (0.0, 1.0)

RESAMPLES = 2000
_BLOCK = 4_000_000  # entries of one block of resampling counts: bounds memory, not the result


class Interval(BaseModel):
    """A figure with its interval. `low` and `high` are None where units are too few to tell how far it may be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float = Field(description="the figure itself, in the metric's unit")
    low: float | None = Field(None, description="lower end; none of too few units")
    high: float | None = Field(None, description="upper end; none of too few units")
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


def _holding(value: float, low: float, high: float, bounds: Bounds | None = None) -> dict[str, float]:
    """The ends, within bounds, and never past the figure by rounding."""
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return {"low": min(low, value), "high": max(high, value)}


def wilson(successes: int, n: int, *, level: float = 0.95, unit: Unit = "row") -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927): sane at 0 and n, unlike the normal one."""
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no proportion")
    from scipy.stats import binomtest

    ci = binomtest(successes, n).proportion_ci(level, method="wilson")
    value = successes / n
    ends = _holding(value, float(ci.low), float(ci.high), SHARE)
    return Interval(value=value, **ends, n=n, level=level, unit=unit, method="wilson")


def unseen(n: int, level: float = 0.95) -> float:
    """The largest share of rows that may be otherwise where none of n is: Wilson's upper end of 0 of n."""
    high = wilson(0, n, level=level).high
    assert high is not None
    return high


def alike(value: float, n: int, bounds: Bounds, *, level: float, unit: Unit) -> Interval:
    """The interval of a figure of n rows none of which differs, so that resampling them shows no spread: so many as may
    be otherwise unseen may be as far off as the figure's bounds.
    """
    share = unseen(n, level)
    low, high = value - share * (value - bounds[0]), value + share * (bounds[1] - value)
    ends = _holding(value, low, high, bounds)
    return Interval(value=value, **ends, n=n, level=level, unit=unit, method="Wilson's bound where no row differs")


def t_interval(
    values: Sequence[float], *, level: float = 0.95, unit: Unit = "seed", bounds: Bounds | None = None
) -> Interval:
    """Student's interval of a mean, for a handful of seeds.

    `bounds`: what the quantity can be at all. The part of the interval beyond them holds nothing that could be true,
    so that leaving it out changes no coverage.
    """
    x = _finite(values, "values")
    n, mean = len(x), float(x.mean())
    if n < 2:
        return Interval(value=mean, n=n, level=level, unit=unit, method="t")
    from scipy.stats import t

    half = float(t.ppf(0.5 + level / 2, n - 1) * x.std(ddof=1) / math.sqrt(n))
    ends = _holding(mean, mean - half, mean + half, bounds)
    return Interval(value=mean, **ends, n=n, level=level, unit=unit, method="t")


def welch_interval(
    before: Sequence[float],
    after: Sequence[float],
    *,
    level: float = 0.95,
    unit: Unit = "seed",
    bounds: Bounds | None = None,
) -> Interval:
    """Welch's interval of mean(after) - mean(before), for two handfuls of seeds that are no pairs (Welch 1947)."""
    a, b = _finite(before, "before"), _finite(after, "after")
    value, n = float(b.mean() - a.mean()), len(a) + len(b)
    if min(len(a), len(b)) < 2:
        return Interval(value=value, n=n, level=level, unit=unit, method="Welch's t")
    half, (va, vb) = 0.0, (float(x.var(ddof=1)) / len(x) for x in (a, b))
    if va + vb:
        from scipy.stats import t

        df = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
        half = float(t.ppf(0.5 + level / 2, df)) * math.sqrt(va + vb)
    ends = _holding(value, value - half, value + half, bounds)
    return Interval(value=value, **ends, n=n, level=level, unit=unit, method="Welch's t")


def _group_sums(x: np.ndarray, w: np.ndarray, groups: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sums of w*x and of w by group (each value its own group when none are given)."""
    if groups is None:
        return w * x, w
    if len(groups) != len(x):
        raise ValueError(f"{len(groups)} groups for {len(x)} values")
    index: dict[Hashable, int] = {}
    which = np.array([index.setdefault(g, len(index)) for g in groups])
    return np.bincount(which, w * x), np.bincount(which, w)


def _centred(draws: np.ndarray, value: float, level: float) -> tuple[float, float]:
    """Percentiles of the draws, moved so that their median is the figure: what resampling shifts is taken off."""
    low, middle, high = np.quantile(draws, [0.5 - level / 2, 0.5, 0.5 + level / 2])
    return value + float(low - middle), value + float(high - middle)


def _bca(draws: np.ndarray, value: float, left_out: np.ndarray, level: float) -> tuple[float, float]:
    """Ends of the bias-corrected and accelerated bootstrap (Efron 1987) from draws and leave-one-out values.

    Where hardly a draw lies on one side of the figure (few rows, very unequal weights), the correction leads past it:
    then the draws are centred instead.
    """
    from scipy.stats import norm

    spread = left_out.mean() - left_out
    below = (np.sum(draws < value) + 0.5 * np.sum(draws == value)) / len(draws)
    if not spread.any() or not 0 < below < 1:
        return _centred(draws, value, level)
    z0 = norm.ppf(below)
    spread = spread / np.abs(spread).max()  # the ratio has no scale, and squares of tiny numbers are 0
    a = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    z = z0 + norm.ppf([0.5 - level / 2, 0.5 + level / 2])
    low, high = np.quantile(draws, norm.cdf(z0 + z / (1 - a * z)))
    slack = 1e-9 * max(1e-300, abs(value), float(np.abs(draws).max()))  # sums in another order
    return (float(low), float(high)) if low - slack <= value <= high + slack else _centred(draws, value, level)


def fewest(level: float) -> int:
    """Units from which on resampling can reach a level: of n, all draws are one and the same unit in a share of n^-n,
    and only where that is less than what the level leaves out at an end do its ends say more than the extremes.
    """
    n = 2
    while n**-n >= (1 - level) / 2:
        n += 1
    return n


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | None = None,
    *,
    weights: Sequence[float] | np.ndarray | None = None,
    level: float = 0.95,
    unit: Unit = "row",
    seed: int = 0,
    resamples: int = RESAMPLES,
    bounds: Bounds | None = None,
) -> Interval:
    """Interval of a (weighted) mean by resampling rows, or whole groups such as documents (BCa). `bounds`: what a value
    can be, where that is known; rows that are all alike then say how far others may be (`alike`).

    With weights (tokens of a row, say) the figure is sum(w v) / sum(w) and both sums are resampled together. The
    draws use a generator of their own: equal inputs give equal intervals.
    """
    x = _finite(values, "values")
    w = np.ones_like(x) if weights is None else _finite(weights, "weights")
    if len(w) != len(x) or (w < 0).any() or not w.sum() > 0:
        raise ValueError("weights must be as many as values, none negative, not all zero")
    top, bottom = _group_sums(x, w, groups)
    among = float(x[w > 0].min()), float(x[w > 0].max())  # a weighted mean lies among its values, but for rounding
    value, n = min(max(float(top.sum() / bottom.sum()), among[0]), among[1]), len(top)
    if n < 2:
        return Interval(value=value, n=n, level=level, unit=unit, method="bootstrap")
    if bounds is not None and among[0] == among[1]:
        return alike(value, n, bounds, level=level, unit=unit)
    if n < fewest(level):
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
    ends = _holding(value, low, high, among)
    return Interval(value=value, **ends, n=n, level=level, unit=unit, method="bootstrap")


def paired_difference(
    before: Sequence[float],
    after: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    *,
    weights: Sequence[float] | None = None,
    level: float = 0.95,
    unit: Unit = "row",
    seed: int = 0,
    bounds: Bounds | None = None,
) -> Interval:
    """Interval of mean(after - before) on the same rows: the pairs are resampled, so what rows share cancels.
    `bounds`: what one value can be, where that is known.
    """
    a, b = _finite(before, "before"), _finite(after, "after")
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values before and {len(b)} after: a paired test needs the same rows")
    apart = None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])
    out = bootstrap_mean(b - a, groups, weights=weights, level=level, unit=unit, seed=seed, bounds=apart)
    return out.model_copy(update={"method": "paired bootstrap"}) if out.method == "bootstrap" else out


FEW = 10
"""Rows that differ, below which resampling them knows too little of how many others may."""


def paired_proportions(
    before: Sequence[float], after: Sequence[float], *, level: float = 0.95, unit: Unit = "row", seed: int = 0
) -> Interval:
    """Interval of the difference of two shares on the same rows, of scores 0 or 1: the pairs are resampled; where fewer
    than `FEW` rows differ, Newcombe's score interval (1998, method 10), which such rows do not make too short.
    """
    a, b = _finite(before, "before") > 0.5, _finite(after, "after") > 0.5
    n = len(a)
    if n < 2 or int((a != b).sum()) >= FEW or not (a != b).any():
        return paired_difference(before, after, level=level, unit=unit, seed=seed, bounds=SHARE)
    first, second = (wilson(int(x.sum()), n, level=level) for x in (a, b))
    both, neither = int((a & b).sum()), int((~a & ~b).sum())
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    product = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    cross = both * neither - only_a * only_b
    phi = 0.0 if not product else (max(cross - n / 2, 0) if cross > 0 else cross) / math.sqrt(product)
    assert first.low is not None and first.high is not None and second.low is not None and second.high is not None
    value = second.value - first.value
    below, above = (
        (second.value - second.low, first.high - first.value),
        (second.high - second.value, first.value - first.low),
    )
    low = value - math.sqrt(max(0.0, below[0] ** 2 - 2 * phi * below[0] * below[1] + below[1] ** 2))
    high = value + math.sqrt(max(0.0, above[0] ** 2 - 2 * phi * above[0] * above[1] + above[1] ** 2))
    ends = _holding(value, low, high, (-1.0, 1.0))
    return Interval(value=value, **ends, n=n, level=level, unit=unit, method="Newcombe's score, paired")


def discordant(first: Sequence[float], second: Sequence[float]) -> tuple[int, int]:
    """Rows that only the first, and rows that only the second has right, of scores 0 or 1."""
    pairs = [(a > 0.5, b > 0.5) for a, b in zip(first, second, strict=True)]
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact test (1947): p of a split as uneven, or more so, of the rows on which the two differ."""
    n = only_first + only_second
    if not n:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(only_first, n).pvalue)


def bootstrap_statistic(
    statistic: Callable[[np.ndarray], float],
    n: int,
    *,
    level: float = 0.95,
    unit: Unit = "row",
    seed: int = 0,
    resamples: int = 500,
    bounds: Bounds | None = None,
    exact: bool = False,
) -> Interval:
    """Interval of any figure of n rows: `statistic(indices)` gets the rows' indices, drawn with repeats, and gives NaN
    where they have no such figure.

    Repeats shift many figures (an alignment rises, a calibration error too), by which the draws' plain percentiles may
    leave the figure itself out; they are centred on it. On 1 - CKA that covers as often as it says, the plain ones do
    not. `bounds`: what the figure can be at all; where no draw differs, other rows still may (`alike`), unless the
    figure is `exact`, the same for any rows (the distance of a model from itself).
    """
    value = float(statistic(np.arange(n)))
    none = Interval(value=value, n=n, level=level, unit=unit, method="centred percentile bootstrap")
    if n < 2:
        return none
    rng = np.random.default_rng(seed)
    draws = np.array([float(statistic(rng.integers(0, n, n))) for _ in range(resamples)])
    if n < fewest(level) and not bool(np.all(draws == value)):  # where all are one figure, `of_draws` knows more
        return none
    return of_draws(value, draws, n, level=level, unit=unit, bounds=bounds, exact=exact)


def of_draws(
    value: float,
    draws: np.ndarray,
    n: int,
    *,
    level: float = 0.95,
    unit: Unit = "row",
    bounds: Bounds | None = None,
    exact: bool = False,
) -> Interval:
    """The interval of a figure of `n` rows from what it was on rows drawn again, NaN where it was nothing: percentiles
    centred on the figure. `bounds` and `exact` as of `bootstrap_statistic`.
    """
    draws = draws[~np.isnan(draws)]
    closed = bounds is not None and np.isfinite(bounds).all()
    if bounds is not None and closed and not exact and len(draws) and float(np.ptp(draws)) == 0 and draws[0] == value:
        return alike(value, n, bounds, level=level, unit=unit)
    ends = _holding(value, *_centred(draws, value, level), bounds) if len(draws) else {}
    return Interval(value=value, **ends, n=n, level=level, unit=unit, method="centred percentile bootstrap")


def gain_interval(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], *, level: float = 0.95
) -> tuple[float, float, float]:
    """How far the weighted mean of a loss fell, and the interval of that over the rows by Student's t: (gain, low,
    high), in the loss's units. Rows are [loss, weight], the same ones in the same order; of one row alone nothing is
    known.
    """
    (old, weights), (new, _) = np.asarray(before, dtype=np.float64).T, np.asarray(after, dtype=np.float64).T
    total, n = max(1e-9, float(weights.sum())), len(weights)
    gain = float((weights * (old - new)).sum()) / total
    if n < 2:
        return gain, -math.inf, math.inf
    from scipy.stats import t

    error = math.sqrt(n / (n - 1) * float(np.square(weights * (old - new - gain)).sum())) / total
    half = error * float(t.ppf((1 + level) / 2, n - 1))
    return gain, gain - half, gain + half
