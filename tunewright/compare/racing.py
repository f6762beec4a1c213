"""A race: every method is looked at after each seed, and those that are shown to be behind the best run no further.

Looking often finds by chance what one look would not. So the looks share one allowance: of methods that are all the
same, 5 % of races drop any or call any behind, at all looks together. With T_n the largest paired t of the best over
the others after n seeds (`standing`), the limits c_n are those of

    P(T_m > c_m at some look m <= n) = 0.05 * (n / N)^2        for K methods that are the same, N seeds at most

(group-sequential limits by a spending function: Lan and DeMets 1983; the power family, Kim and DeMets 1987; here with
exponent 2, which leaves most to the later looks, where few seeds tell more). They are drawn once for each K and N. The
intervals of differences, t limits c_n at every look, are right together at all looks (repeated confidence intervals,
Jennison and Turnbull 1989). N is part of the limits: a race that is asked for more seeds later is another race.

Looks begin after three seeds: two have one degree of freedom, and say nothing about several methods. Where fewer than K
are the same, or some were dropped, the limits for K are larger than theirs. What holds and what is found:
`python -m tunewright.compare.simulate_race` (docs/compare.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from tunewright.compare.standing import beside_best, compare_with_best
from tunewright.errors import RecipeError
from tunewright.measure.intervals import Bounds
from tunewright.report.compare_schema import Against, Dropped, Look

ERROR = 0.05
EXPONENT = 2.0
FIRST = 3
"""Seeds before the first look."""
LEAST = FIRST + 1
"""Seeds of the shortest race that can drop anything: the last look drops nothing, since all has been run by then."""
DRAWS = 40_000
_BLOCK = 4_000  # drawn at a time: bounds memory, not the result
_ENDLESS = math.inf


def check_race(seeds: int) -> None:
    """RecipeError where a race could drop nothing."""
    if seeds < LEAST:
        raise RecipeError(
            f"a race of {seeds} seed{'s' if seeds != 1 else ''} can drop nothing: its first look is after {FIRST}",
            where="--race",
            remedy=f"ask for at least {LEAST} seeds, 8 or more to see differences of two standard deviations early, "
            "or leave --race out",
        )


def spent(after: int, seeds: int) -> float:
    """The chance of any false drop that all looks up to this one may spend together."""
    return ERROR * (after / seeds) ** EXPONENT


@lru_cache
def limits(methods: int, seeds: int, draws: int = DRAWS) -> dict[int, float]:
    """Seeds so far -> the t above which the best of so many methods is shown to be ahead of another one."""
    rng = np.random.default_rng([methods, seeds, FIRST])
    looks = range(FIRST, seeds + 1)
    blocks = []
    for start in range(0, draws, _BLOCK):
        x = rng.standard_normal((min(_BLOCK, draws - start), seeds, methods))
        blocks.append(np.stack([beside_best(x[:, :n])[2].max(-1) for n in looks], -1))
    found = np.concatenate(blocks)
    going, far = np.ones(draws, bool), {}
    for i, n in enumerate(looks):
        more = round(spent(n, seeds) * draws) - int((~going).sum())
        here = np.sort(found[going, i])
        far[n] = float(here[len(here) - 1 - more])
        going &= found[:, i] <= far[n]
    return far


@dataclass
class Race:
    """Methods that race over at most `seeds` seeds. `least`: a spread below it is taken for it (one row of a share:
    few seeds that happen to agree to the row say less than they seem to).

    A method with a run that gave no figure is not judged and goes on: what is missing could flatter it.
    """

    names: Sequence[str]
    seeds: int
    least: float = 0.0
    bounds: Bounds = (-_ENDLESS, _ENDLESS)
    values: dict[str, list[float | None]] = field(default_factory=dict)
    dropped: dict[str, Dropped] = field(default_factory=dict)

    @property
    def racing(self) -> list[str]:
        return [n for n in self.names if n not in self.dropped]

    @property
    def after(self) -> int:
        """Seeds so far."""
        return len(self.values[self.racing[0]]) if self.values else 0

    def hear(self, figures: Mapping[str, float | None]) -> list[str]:
        """One more seed's figure of each method in the race, larger is better; gives those that it drops."""
        for name in self.racing:
            figure = figures[name]
            kept = figure if figure is not None and math.isfinite(figure) else None
            self.values.setdefault(name, []).append(kept)
        if not FIRST <= self.after < self.seeds:
            return []
        standings = self.standings()
        best = next((n for n, s in standings.items() if s.word == "best"), "")
        gone = {n: s.difference for n, s in standings.items() if s.word == "behind the best"}
        for name, difference in gone.items():
            assert difference is not None
            self.dropped[name] = Dropped(after=self.after, behind=best, difference=difference)
        return list(gone)

    def standings(self) -> dict[str, Against]:
        """Where those in the race stand after the seeds so far, at least as many as before the first look."""
        far = limits(len(self.names), self.seeds)[self.after]
        racing = {n: self.values[n] for n in self.racing}
        return compare_with_best(racing, self.bounds, far=far, least=self.least)

    def looks(self) -> list[Look]:
        far = limits(len(self.names), self.seeds)
        return [Look(after=n, limit=c, spent=spent(n, self.seeds)) for n, c in far.items()]
