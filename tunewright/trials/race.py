"""A race among learning rates, lengths of training and batches: many start short, the best go on longer.

Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943) with the length of training as what is spent, and
each run a whole schedule of its own, so that a short one that is enough may win. What is asked first is the recipe as
it is: whatever stops the race, the winner is no worse than that, on the rows that it is judged by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

STEP = 3.0
"""Factor between neighbouring rates."""
WIDE = 2
"""Rates on each side of the recipe's own, to begin with."""
FURTHER = 2
"""Rates that are tried beyond an end of them, while the end is the best."""
SHORT = 0.5
"""Length of the first runs, in lengths of the recipe."""
FINALISTS = 2
"""Rates that go on to the full length."""
LONGEST = 8.0


@dataclass(frozen=True)
class Candidate:
    """What is searched: the learning rate, the length of training in lengths of the recipe, the batch in batches of
    the recipe.
    """

    rate: float
    length: float = 1.0
    batch: float = 1.0


Scores = Mapping[Candidate, float | None]
"""Higher is better; none: the run failed. A candidate that is not in it was not run: the race is over."""
Run = Callable[[Sequence[Candidate]], Scores]


class Race:
    """The race from a recipe's own values. `scores`: all that was found, in the order of asking."""

    def __init__(self, own: Candidate, run: Run):
        self.own, self._run = own, run
        self.scores: dict[Candidate, float | None] = {}
        self.over = False

    def run(self) -> Candidate | None:
        """Ask until nothing better is to be expected or the runs end. None where no run finished."""
        self._ask([self.own])
        self._rates()
        self._lengths()
        self._batches()
        return self.best()

    def best(self, among: Sequence[Candidate] | None = None) -> Candidate | None:
        """The best so far. Of equal ones the one nearest the recipe's own, then the shorter: no change without a
        reason.
        """
        found = [c for c in (self.scores if among is None else among) if self.scores.get(c) is not None]
        return max(found, key=self._worth) if found else None

    def _worth(self, candidate: Candidate) -> tuple[float, float, float]:
        score = self.scores[candidate]
        assert score is not None
        away = max(candidate.rate / self.own.rate, self.own.rate / candidate.rate)
        changed = abs(candidate.batch - 1.0) + abs(candidate.length - 1.0)
        return score, -round(away, 6) - changed, -candidate.length

    def _ask(self, candidates: Sequence[Candidate]) -> None:
        fresh = [c for c in candidates if c not in self.scores]
        if self.over or not fresh:
            return
        found = self._run(fresh)
        self.scores.update({c: found[c] for c in fresh if c in found})
        self.over = any(c not in found for c in fresh)

    def _rates(self) -> None:
        """Rates apart by a factor, at the short length, further while an end is the best; the best of them in full."""
        grid = [replace(self.own, rate=self.own.rate * STEP**k, length=SHORT) for k in range(-WIDE, WIDE + 1)]
        self._ask(grid)
        for _ in range(FURTHER):
            best = self.best(grid)
            if best is None or len({self.scores.get(c) for c in grid}) == 1:
                break
            if best == grid[-1]:
                grid.append(replace(best, rate=best.rate * STEP))
            elif best == grid[0]:
                grid.insert(0, replace(best, rate=best.rate / STEP))
            else:
                break
            self._ask(grid)
        ranked = sorted((c for c in grid if self.scores.get(c) is not None), key=self._worth, reverse=True)
        self._ask([replace(c, length=1.0) for c in ranked[:FINALISTS]])

    def _lengths(self) -> None:
        """The best one twice as long, as long as that is better."""
        while (best := self.best()) is not None and not self.over and best.length < LONGEST:
            longer = replace(best, length=2 * best.length)
            if longer in self.scores:
                return
            self._ask([longer])
            if self.best() != longer:
                return

    def _batches(self) -> None:
        """The best one with half and with twice the batch."""
        if (best := self.best()) is not None:
            self._ask([replace(best, batch=0.5), replace(best, batch=2.0)])
