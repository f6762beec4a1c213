"""How often the interval over seeds and rows covers what other seeds and rows would give, beside the one over seeds:
`python -m tunewright.claims.simulate_rows`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tunewright.measure.crossed import crossed_interval, spread
from tunewright.measure.intervals import t_interval

SEEDS, ROWS = (4, 8, 16), (100, 300, 1000)


@dataclass(frozen=True)
class Normal:
    """Paired differences with normal parts, in units of what is left of a row after seed and row."""

    seed: float
    row: float

    @property
    def truth(self) -> float:
        return 0.3

    def draw(self, rng: np.random.Generator, seeds: int, rows: int) -> np.ndarray:
        parts = self.seed * rng.normal(size=(seeds, 1)) + self.row * rng.normal(size=(1, rows))
        return self.truth + parts + rng.normal(size=(seeds, rows))


@dataclass(frozen=True)
class Answers:
    """Right answers of two methods, minus one another: rows of unequal difficulty, of which a method finds some easier
    than the other does, and seeds that come out better or worse.
    """

    seed: float
    own: float  # what of a row's difficulty is a method's own
    better: float

    @property
    def truth(self) -> float:
        from scipy.stats import norm

        total = math.sqrt(1 + 1 + self.own**2 + self.seed**2)
        return float(norm.cdf((0.4 + self.better) / total) - norm.cdf(0.4 / total))

    def draw(self, rng: np.random.Generator, seeds: int, rows: int) -> np.ndarray:
        shared = rng.normal(size=(1, rows))
        right = []
        for mean in (0.4 + self.better, 0.4):
            own = self.own * rng.normal(size=(1, rows)) + self.seed * rng.normal(size=(seeds, 1))
            right.append(mean + shared + own + rng.normal(size=(seeds, rows)) > 0)
        return right[0].astype(float) - right[1]


SHAPES: dict[str, Normal | Answers] = {
    "normal, seeds and rows matter alike": Normal(0.1, 1.0),
    "normal, rows matter more": Normal(0.02, 1.0),
    "normal, rows do not differ": Normal(0.1, 0.0),
    "right answers, rows differ by method": Answers(0.2, 0.7, 0.3),
    "right answers, rows differ by method, seeds hardly": Answers(0.05, 0.7, 0.3),
    "right answers, rows are alike to both": Answers(0.2, 0.0, 0.3),
}


@dataclass(frozen=True)
class Covered:
    """How often each interval held the truth."""

    what: str
    seeds: int
    rows: int
    both: float
    alone: float


def coverage(
    trials: int, seeds: Sequence[int] = SEEDS, rows: Sequence[int] = ROWS, shapes: Sequence[str] = tuple(SHAPES)
) -> Iterator[Covered]:
    for name in shapes:
        for n in seeds:
            for r in rows:
                rng, both, alone = np.random.default_rng([20, n, r]), 0, 0
                for _ in range(trials):
                    x = SHAPES[name].draw(rng, n, r)
                    both += not crossed_interval(spread(x)).excludes(SHAPES[name].truth)
                    alone += not t_interval(list(x.mean(1))).excludes(SHAPES[name].truth)
                yield Covered(name, n, r, both / trials, alone / trials)


def table(found: Sequence[Covered]) -> str:
    """Markdown: a row a kind and number of seeds, a column a number of rows."""
    rows = sorted({c.rows for c in found})
    lines = [
        f"| values | seeds | {' | '.join(f'{r} rows' for r in rows)} |",
        f"| --- | --- |{' --- |' * len(rows)}",
    ]
    for what, n in dict.fromkeys((c.what, c.seeds) for c in found):
        here = {c.rows: c for c in found if (c.what, c.seeds) == (what, n)}
        cells = (f"{100 * here[r].both:.1f} % ({100 * here[r].alone:.0f} %)" for r in rows)
        lines.append(f"| {what} | {n} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tunewright.claims.simulate_rows", description="coverage of the interval over seeds and rows"
    )
    parser.add_argument("--trials", type=int, default=1000, help="repetitions a figure")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into this page, between its marks")
    asked = parser.parse_args()
    text = table(list(coverage(asked.trials)))
    print(text)
    if asked.write:
        from tunewright.claims.page import between

        page = between(asked.write.read_text(encoding="utf-8"), "simulated rows", text)
        asked.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
