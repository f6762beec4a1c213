"""Who is behind the best of K methods, where the best was picked after the fact: identical methods are to tie.

The best is the one with the largest mean over the seeds, and picking it looks at every pair: among K identical methods
it lies by chance above the others, and a paired t test with one of them is fooled far more often than it says. So a
difference is judged beside what such a pick gives by itself. With x[s, k] one figure a seed and method, b the best,

    t_k = mean(x_b - x_k) / (sd(x_b - x_k) / sqrt(n)),      T = max_k t_k

and a method is behind where t_k lies above the 95 % point of T for K methods that are the same: normal, as noisy as one
another, paired by seed (the single-step max-T test, Westfall and Young 1993, its distribution drawn once for each K and
n). For K = 2 that is Student's two-sided paired test. Each pair has a spread of its own, since methods are not equally
noisy; a spread pooled over all would see more, and would call the noisy ones behind too often. Where fewer than K are
the same the point for K is larger than theirs, so the chance of any false "behind" stays within 5 %.

`python -m tunewright.compare.simulate` shows how often that is so, and what power is left (docs/compare.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from tunewright.claims import rule
from tunewright.measure.intervals import Bounds, Interval
from tunewright.report.compare_schema import Against, Word

LEVEL = 0.95
DRAWS = 40_000
_BLOCK = 4_000  # drawn at a time: bounds memory, not the result
_ENDLESS = math.inf


def beside_best(
    x: np.ndarray, best: np.ndarray | int | None = None, least: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of figures [..., seeds, methods]: (mean of best minus method, its standard error, t), each [..., methods].

    `best`: the method beside which they stand; none: the one with the largest mean. `least`: a spread over seeds below
    it is taken for it. Without any spread t is 0 or infinite.
    """
    at = np.asarray(x.mean(-2).argmax(-1) if best is None else best)
    first = np.take_along_axis(x, np.broadcast_to(at[..., None, None], (*x.shape[:-1], 1)), -1)
    gaps = first - x
    mean, error = gaps.mean(-2), gaps.std(-2, ddof=1) / math.sqrt(x.shape[-2])
    error = np.maximum(np.where(error < 1e-12 * np.abs(x).max(), 0.0, error), least / math.sqrt(x.shape[-2]))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(error > 0, mean / error, np.where(mean > 0, np.inf, 0.0))
    return mean, error, t


@lru_cache
def null(methods: int, seeds: int, draws: int = DRAWS) -> np.ndarray:
    """T of that many methods that are all the same, over so many seeds: `draws` of it, rising."""
    rng = np.random.default_rng([methods, seeds])
    found = []
    for start in range(0, draws, _BLOCK):
        x = rng.standard_normal((min(_BLOCK, draws - start), seeds, methods))
        found.append(beside_best(x)[2].max(-1))
    return np.sort(np.concatenate(found))


def critical(methods: int, seeds: int) -> float:
    """The t above which the best of so many methods over so many seeds is shown to be ahead of another one."""
    if methods == 2:
        from scipy.stats import t

        return float(t.ppf(0.5 + LEVEL / 2, seeds - 1))
    return float(np.quantile(null(methods, seeds), LEVEL))


def p_value(t: float, methods: int, seeds: int) -> float:
    """How often the best of methods that are the same is this far ahead of any; beyond the draws' reach Bonferroni's
    bound over all pairs.
    """
    from scipy.stats import t as student

    pairs = methods * (methods - 1) / 2
    bound = min(1.0, 2 * pairs * float(student.sf(t, seeds - 1)))
    if methods == 2:
        return bound
    drawn = null(methods, seeds)
    return min(bound, (len(drawn) - int(np.searchsorted(drawn, t)) + 1) / (len(drawn) + 1))


def compare_with_best(
    values: Mapping[str, Sequence[float | None]],
    bounds: Bounds = (-_ENDLESS, _ENDLESS),
    *,
    far: float | None = None,
    least: float = 0.0,
) -> dict[str, Against]:
    """Method -> where it stands. `values`: one figure a seed, larger is better, None where a run gave none; `bounds` of
    the difference of two. Intervals hold together: 95 % that all of them are right, the best picked after the fact.

    `far`: the limit of t where it is not that of one look (`racing`); there is no p then. `least`: see `beside_best`.
    """
    there = {n: [v for v in vs if v is not None] for n, vs in values.items()}
    whole = [n for n, vs in there.items() if len(vs) == len(values[n]) and vs] or [n for n, vs in there.items() if vs]
    if not whole:
        return {n: Against(word="unclear", reason="no run finished") for n in values}
    best = max(whole, key=lambda n: sum(there[n]) / len(there[n]))
    paired = [n for n in whole if None not in values[n] and None not in values[best]]
    standings = {best: Against(word="best")}
    seeds = len(values[best])
    if best in paired and len(paired) > 1 and seeds > 1:
        x = np.array([[float(v or 0.0) for v in values[n]] for n in paired]).T
        mean, error, t = beside_best(x, paired.index(best), least)
        limit = critical(len(paired), seeds) if far is None else far
        for i, name in enumerate(paired):
            if name != best:
                standings[name] = _standing(mean[i], error[i], t[i], limit, bounds, seeds)
                if far is None:
                    p = p_value(float(t[i]), len(paired), seeds) if error[i] else float(mean[i] <= 0)
                    standings[name] = standings[name].model_copy(update={"p": p})
    for name in values:
        if name not in standings:
            judged = rule.verdict(rule.effects(values[name], values[best], "higher"), 0.0)
            standings[name] = Against(
                word="unclear", difference=_within(judged.interval, bounds), reason=judged.reason or "a run is missing"
            )
    return {n: standings[n] for n in values}


def _standing(mean: float, error: float, t: float, far: float, bounds: Bounds, seeds: int) -> Against:
    reach = far * error if error else 0.0
    difference = Interval(
        value=-mean, low=-mean - reach, high=-mean + reach, n=seeds, level=LEVEL, unit="seed", method="max-t"
    )
    word: Word = "behind the best" if t > far else "tied with the best"
    return Against(word=word, difference=_within(difference, bounds))


def _within(interval: Interval | None, bounds: Bounds) -> Interval | None:
    if interval is None or interval.low is None or interval.high is None:
        return interval
    return interval.model_copy(update={"low": max(interval.low, bounds[0]), "high": min(interval.high, bounds[1])})
