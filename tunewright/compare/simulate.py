"""How often a comparison calls a method behind that is no worse, and what it still sees:
`python -m tunewright.compare.simulate`.

Every figure goes through the very function that judges comparisons (`standing.compare_with_best`), the best picked
after the fact as there.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tunewright.compare.standing import compare_with_best

Draw = Callable[[np.random.Generator, int, int], np.ndarray]  # (generator, seeds, methods) -> figures [seeds, methods]
Row = tuple[str, int, int, str, float, float, str]  # what, methods, seeds, figure, rate, its error, what it should be

METHODS, SEEDS = (2, 3, 4, 6, 8, 10), (3, 4, 8)
ROWS = 200


def _shared(rng: np.random.Generator, seeds: int) -> np.ndarray:
    """What the methods of a seed have in common: its rows and their order."""
    return rng.normal(0, 2, (seeds, 1))


def equal(rng: np.random.Generator, seeds: int, methods: int) -> np.ndarray:
    return _shared(rng, seeds) + rng.normal(0, 1, (seeds, methods))


def unequal(rng: np.random.Generator, seeds: int, methods: int) -> np.ndarray:
    """Every other method is five times as noisy."""
    return _shared(rng, seeds) + rng.normal(0, 1, (seeds, methods)) * np.where(np.arange(methods) % 2, 5.0, 1.0)


def heavy(rng: np.random.Generator, seeds: int, methods: int) -> np.ndarray:
    return _shared(rng, seeds) + rng.standard_t(5, (seeds, methods))


def shares(rng: np.random.Generator, seeds: int, methods: int) -> np.ndarray:
    """Right answers of 200 rows: rows are of unequal difficulty, and figures come in steps of half a point."""
    chance = np.clip(0.6 + rng.normal(0, 0.03, (seeds, methods)), 0, 1)
    return rng.binomial(ROWS, chance) / ROWS


SAME: dict[str, Draw] = {
    "normal": equal,
    "every other five times as noisy": unequal,
    "heavy tails (t, 5 df)": heavy,
    "right answers of 200 rows": shares,
}
AWAY = (1.0, 2.0, 3.0, 4.0)


def _words(x: np.ndarray) -> list[str]:
    found = compare_with_best({f"m{i}": list(map(float, column)) for i, column in enumerate(x.T)})
    return [found[f"m{i}"].word for i in range(x.shape[1])]


def _row(what: str, methods: int, seeds: int, figure: str, hits: int, trials: int, should: str) -> Row:
    rate = hits / trials
    return what, methods, seeds, figure, rate, math.sqrt(rate * (1 - rate) / trials), should


def ties(
    trials: int, methods: Sequence[int] = METHODS, seeds: Sequence[int] = SEEDS, shapes: Sequence[str] = tuple(SAME)
) -> Iterator[Row]:
    """Methods that are all the same: how often any of them is called behind."""
    for name in shapes:
        for k in methods:
            for n in seeds:
                rng = np.random.default_rng([0, k, n])
                hits = sum("behind the best" in _words(SAME[name](rng, n, k)) for _ in range(trials))
                yield _row(f"all the same: {name}", k, n, "any is behind", hits, trials, "at most 5 %")


def some(trials: int, methods: Sequence[int] = METHODS[1:], seeds: Sequence[int] = SEEDS) -> Iterator[Row]:
    """Two thirds are the same and the others far worse: how often one of the same is called behind."""
    for k in methods:
        for n in seeds:
            rng, alike = np.random.default_rng([1, k, n]), k - k // 3
            drawn = (equal(rng, n, k) - np.where(np.arange(k) < alike, 0.0, 8.0) for _ in range(trials))
            hits = sum("behind the best" in _words(x)[:alike] for x in drawn)
            yield _row("a third far worse", k, n, "one of the same is behind", hits, trials, "at most 5 %")


def power(trials: int, methods: Sequence[int] = METHODS, seeds: Sequence[int] = SEEDS) -> Iterator[Row]:
    """One method is worse than the others, which are the same, by so many standard deviations of a paired difference:
    how often it is called behind.
    """
    for k in methods:
        for n in seeds:
            for away in AWAY:
                rng = np.random.default_rng([2, k, n])
                worse = np.where(np.arange(k) == 0, away * math.sqrt(2), 0.0)
                hits = sum(_words(equal(rng, n, k) - worse)[0] == "behind the best" for _ in range(trials))
                yield _row(f"one worse by {away:g} sd", k, n, "it is behind", hits, trials, "(power)")


def table(rows: Sequence[Row]) -> str:
    """The rates as Markdown, a row a kind and number of seeds, a column a number of methods."""
    counts = sorted({k for _, k, *_ in rows})
    heads = [f"{k} methods" for k in counts]
    lines = [
        f"| figures | seeds | found | {' | '.join(heads)} | should be |",
        f"| --- | --- | --- |{' --- |' * len(counts)} --- |",
    ]
    for what, n, figure, should in dict.fromkeys((w, n, f, s) for w, _, n, f, _, _, s in rows):
        rates = {k: r for w, k, m, _, r, _, _ in rows if (w, m) == (what, n)}
        cells = " | ".join(f"{100 * rates[k]:.1f} %" if k in rates else "" for k in counts)
        lines.append(f"| {what} | {n} | {figure} | {cells} | {should} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tunewright.compare.simulate", description="how often a comparison is right, on simulated data"
    )
    parser.add_argument("--trials", type=int, default=2000, help="repetitions a figure")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into this page, between its marks")
    asked = parser.parse_args()
    text = table([*ties(asked.trials), *some(asked.trials), *power(asked.trials // 2)])
    print(text)
    if asked.write:
        from tunewright.claims.page import between

        asked.write.write_text(between(asked.write.read_text(encoding="utf-8"), "simulated", text), encoding="utf-8")


if __name__ == "__main__":
    main()
