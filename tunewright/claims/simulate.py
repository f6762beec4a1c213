"""How often the rule is right, on data whose truth is known: `python -m tunewright.claims.simulate`.

Every figure goes through the very functions that judge claims. Rates are of independent repetitions; their own
standard error is in the last column.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tunewright.claims.matched import Matched, Point, match
from tunewright.claims.rule import Verdict, effects, holm_verdicts, verdict

Draw = Callable[[np.random.Generator, int], np.ndarray]  # (generator, seeds) -> effects with mean 0
Row = tuple[str, int, str, float, float, str]  # what, seeds, figure, value, its standard error, what it should be

SEEDS = (5, 8)
SHAPES: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(0, 1, n),
    "uniform": lambda rng, n: rng.uniform(-1, 1, n),
    "heavy tails (t, 5 df)": lambda rng, n: rng.standard_t(5, n),
    "skewed (chi2, 8 df)": lambda rng, n: rng.chisquare(8, n) - 8,
}
COVERS, NEAR = "95 %", "at most 2.5 %"
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def _row(what: str, seeds: int, figure: str, hits: int, trials: int, should: str) -> Row:
    rate = hits / trials
    return what, seeds, figure, rate, math.sqrt(rate * (1 - rate) / trials), should


def _three(name: str, n: int, verdicts: Sequence[Verdict], truth: float) -> Iterator[Row]:
    covered = sum(v.interval is not None and not v.interval.excludes(truth) for v in verdicts)
    yield _row(name, n, "interval covers the true effect", covered, len(verdicts), COVERS)
    yield _row(
        name, n, "`holds` though the effect is d", sum(v.verdict == "holds" for v in verdicts), len(verdicts), NEAR
    )
    yield _row(
        name, n, "`fails` though the effect is d", sum(v.verdict == "fails" for v in verdicts), len(verdicts), NEAR
    )


def single(trials: int, seed: int = 0) -> Iterator[Row]:
    """One baseline: coverage of the interval, and how often a true effect of exactly d is called holds or fails."""
    for name, draw in SHAPES.items():
        for n in SEEDS:
            rng = np.random.default_rng([seed, n])
            yield from _three(name, n, [verdict(list(0.3 + draw(rng, n)), 0.3) for _ in range(trials)], 0.3)


def several(trials: int, seed: int = 1) -> Iterator[Row]:
    """Three baselines that share the method's runs: the effect against all, or against one of them, is d."""
    for n in SEEDS:
        for name, means in (("three baselines, all at d", (0, 0, 0)), ("three baselines, one at d", (0, 5, 5))):
            rng = np.random.default_rng([seed, n])
            verdicts = []
            for _ in range(trials):
                method = rng.normal(0, 1, n)
                verdicts.append(
                    verdict({f"b{i}": list(mean + method - rng.normal(0, 1, n)) for i, mean in enumerate(means)}, 0.0)
                )
            yield _row(name, n, "`holds`", sum(v.verdict == "holds" for v in verdicts), trials, NEAR)
            yield _row(name, n, "`fails`", sum(v.verdict == "fails" for v in verdicts), trials, NEAR)


def pages(trials: int, claims: int = 20, seed: int = 2) -> Iterator[Row]:
    """A page of many claims whose effects are all d: how often any is called, before and after Holm."""
    for n in SEEDS:
        rng = np.random.default_rng([seed, n])
        plain = corrected = 0
        for _ in range(trials):
            page = {str(i): verdict(list(rng.normal(0, 1, n)), 0.0) for i in range(claims)}
            plain += any(v.verdict != "unclear" for v in page.values())
            corrected += any(word != "unclear" for word in holm_verdicts(page).values())
        yield _row(f"a page of {claims} claims, all at d", n, "any verdict, uncorrected", plain, trials, "(about 64 %)")
        yield _row(f"a page of {claims} claims, all at d", n, "any verdict, Holm", corrected, trials, "at most 5 %")


def curve(rng: np.random.Generator, gain: float, cost: float, rows: int = 240) -> list[Point]:
    """A noisy strength curve as runs give them: exact match on `rows` rows (the same at every strength), kept loss.

    `gain` and `cost` are this run's own; an answer turns right at a strength of its own, so neighbours share noise.
    """
    difficulty = rng.uniform(0, 1, rows)
    noise = rng.normal(0, 0.01)
    points = []
    for s in STRENGTHS:
        right = float(np.mean(difficulty < gain * (1 - math.exp(-3 * s)) / (1 - math.exp(-3))))
        points.append(Point(s, right, 3.0 + cost * s**2 + noise * s + (rng.normal(0, 0.002) if s else 0.0)))
    return points


def pair(rng: np.random.Generator, gains: tuple[float, float], costs: tuple[float, float], at: float) -> Matched:
    """One seed of two methods: their runs differ by seed, and share a part of it (order and rows)."""
    shared = rng.normal(0, 0.02)
    runs = [
        curve(rng, min(1.0, g + shared + rng.normal(0, 0.03)), max(0.0, c + shared + rng.normal(0, 0.04)))
        for g, c in zip(gains, costs, strict=True)
    ]
    return match(runs[0], runs[1], "higher", at=at)


def _effect(compared: Matched) -> float | None:
    return effects([compared.method], [compared.baseline], "lower")[0]


def matched(trials: int, truth_from: int = 40_000, seed: int = 3) -> Iterator[Row]:
    """Kept at matched target, through noisy curves. The truth is the mean effect of a seed, from many seeds."""
    for (gains, costs), at in (
        (c, at) for c in (((0.8, 0.8), (0.3, 0.3)), ((0.7, 0.85), (0.15, 0.3))) for at in (1.0, 0.9)
    ):
        alike = gains[0] == gains[1]
        rng = np.random.default_rng(seed)
        many = [e for e in (_effect(pair(rng, gains, costs, at)) for _ in range(truth_from)) if e is not None]
        truth = float(np.mean(many))
        name = (
            f"curves, {'equal gain and cost' if alike else 'less gain, less cost'}, at {at:g} of the gain (varies "
            f"by {np.std(many):.3f})"
        )
        for n in SEEDS:
            rng = np.random.default_rng([seed, n])
            verdicts = [verdict([_effect(pair(rng, gains, costs, at)) for _ in range(n)], truth) for _ in range(trials)]
            yield from _three(name, n, verdicts, truth)


def figures(trials: int) -> list[Row]:
    """Every figure, each from `trials` repetitions (a page of claims: a quarter as many)."""
    return [*single(trials), *several(trials), *pages(trials // 4), *matched(trials)]


def table(rows: list[Row]) -> str:
    """The figures as Markdown."""
    lines = [
        "| effects | seeds | figure | found | standard error | should be |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {what} | {n} | {figure} | {100 * rate:.1f} % | {100 * error:.1f} | {should} |"
        for what, n, figure, rate, error, should in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tunewright.claims.simulate", description="how often the rule is right, on simulated data"
    )
    parser.add_argument("--trials", type=int, default=8000, help="repetitions a figure")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into this page, between its marks")
    asked = parser.parse_args()
    text = table(figures(asked.trials))
    print(text)
    if asked.write:
        from tunewright.claims.page import between

        asked.write.write_text(between(asked.write.read_text(encoding="utf-8"), "simulated", text), encoding="utf-8")


if __name__ == "__main__":
    main()
