"""How often a race drops a method that is as good as the best, and how soon it drops worse ones:
`python -m tunewright.compare.simulate_race`.

Every race goes through the very class that drops methods (`racing.Race`), looked at after each seed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tunewright.compare.racing import Race
from tunewright.compare.simulate import ROWS, SAME, equal

METHODS, SEEDS = (2, 3, 4, 6, 8, 10), (4, 8)
MORE = (4, 8, 16)  # seeds of races whose savings are shown
AWAY = (0.5, 1.0, 1.5, 2.0, 4.0)
FEW = 20  # rows of the coarsest figures


@dataclass(frozen=True)
class Row:
    """A rate of one kind of races."""

    what: str
    seeds: int
    methods: int
    figure: str
    text: str
    rate: float


def few_rows(rng: np.random.Generator, seeds: int, methods: int) -> np.ndarray:
    """Right answers of 20 rows: seeds often agree to the row."""
    return rng.binomial(FEW, np.clip(0.6 + rng.normal(0, 0.03, (seeds, methods)), 0, 1)) / FEW


SHAPES = {**SAME, "right answers of 20 rows": few_rows}
LEAST = {"right answers of 200 rows": 1 / ROWS, "right answers of 20 rows": 1 / FEW}


def run(x: np.ndarray, least: float = 0.0) -> tuple[dict[int, int], set[int]]:
    """A race over figures [seeds, methods]: (method -> seeds after which it was dropped, those behind at the end)."""
    race = Race([str(i) for i in range(x.shape[1])], len(x), least)
    for figures in x:
        race.hear({n: float(figures[int(n)]) for n in race.racing})
        if len(race.racing) == 1:
            break
    last = race.standings() if len(race.racing) > 1 else {}
    behind = {int(n) for n, s in last.items() if s.word == "behind the best"}
    return {int(n): d.after for n, d in race.dropped.items()}, behind


def same(
    trials: int, methods: Sequence[int] = METHODS, seeds: Sequence[int] = SEEDS, shapes: Sequence[str] = tuple(SHAPES)
) -> Iterator[Row]:
    """Methods that are all the same: how often any is dropped, or behind at the last look."""
    for name in shapes:
        for n in seeds:
            for k in methods:
                rng = np.random.default_rng([10, k, n])
                races = (run(SHAPES[name](rng, n, k), LEAST.get(name, 0.0)) for _ in range(trials))
                yield _share(f"all the same: {name}", n, k, "any dropped or behind", [bool(d or b) for d, b in races])


def some(trials: int, methods: Sequence[int] = METHODS[1:], seeds: Sequence[int] = SEEDS) -> Iterator[Row]:
    """Two thirds are the same and the others far worse: how often one of the same is dropped or behind."""
    for n in seeds:
        for k in methods:
            rng, alike = np.random.default_rng([11, k, n]), k - k // 3
            far = np.where(np.arange(k) < alike, 0.0, 8.0)
            hits = []
            for _ in range(trials):
                dropped, behind = run(equal(rng, n, k) - far)
                hits.append(any(i < alike for i in {*dropped, *behind}))
            yield _share("a third far worse", n, k, "one of the same dropped or behind", hits)


def worse(trials: int, methods: Sequence[int] = METHODS, seeds: Sequence[int] = MORE) -> Iterator[Row]:
    """All but one are worse than the best by so many standard deviations of a paired difference: what share of them is
    dropped early, and what share of all runs is not made.
    """
    for away in AWAY:
        for n in seeds:
            for k in methods:
                rng = np.random.default_rng([12, k, n])
                by = np.where(np.arange(k) == 0, 0.0, away * math.sqrt(2))
                early, spared = 0.0, 0.0
                for _ in range(trials):
                    dropped, _ = run(equal(rng, n, k) - by)
                    early += len(dropped) / (k - 1)
                    spared += sum(n - after for after in dropped.values()) / (n * k)
                early, spared = early / trials, spared / trials
                yield Row(
                    f"the others worse by {away:g} sd",
                    n,
                    k,
                    "dropped early; runs spared",
                    f"{100 * early:.0f}; {100 * spared:.0f} %",
                    early,
                )


def _share(what: str, seeds: int, methods: int, figure: str, hits: Sequence[bool]) -> Row:
    rate = sum(hits) / len(hits)
    return Row(what, seeds, methods, figure, f"{100 * rate:.1f} %", rate)


def table(rows: Sequence[Row]) -> str:
    """Markdown: a row a kind and number of seeds, a column a number of methods."""
    counts = sorted({r.methods for r in rows})
    lines = [
        f"| figures | seeds at most | found | {' | '.join(f'{k} methods' for k in counts)} |",
        f"| --- | --- | --- |{' --- |' * len(counts)}",
    ]
    for what, n, figure in dict.fromkeys((r.what, r.seeds, r.figure) for r in rows):
        texts = {r.methods: r.text for r in rows if (r.what, r.seeds) == (what, n)}
        lines.append(f"| {what} | {n} | {figure} | {' | '.join(texts.get(k, '') for k in counts)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tunewright.compare.simulate_race", description="how often a race is right, on simulated data"
    )
    parser.add_argument("--trials", type=int, default=1000, help="races a figure")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into this page, between its marks")
    asked = parser.parse_args()
    text = table([*same(asked.trials), *some(asked.trials), *worse(max(1, asked.trials // 5))])
    print(text)
    if asked.write:
        from tunewright.claims.page import between

        asked.write.write_text(
            between(asked.write.read_text(encoding="utf-8"), "simulated race", text), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
