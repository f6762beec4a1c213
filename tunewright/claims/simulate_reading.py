"""How far a figure read at matched target lies from the true one: `python -m tunewright.claims.simulate_reading`.

Curves of known form are measured at a few strengths and read as claims and comparisons read them (`match`), and by
chords between the same points, as was done before. What is lost grows faster than what is gained, so a chord lies above
the curve, and the more so the steeper the method loses: the difference of two methods is off as well.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tunewright.claims.matched import Point, match
from tunewright.measure.trade import NEAR

Shape = Callable[[float], float]  # strength -> share of the gain, 0 at 0 and 1 at 1
Curve = Callable[[float], Point]
Row = tuple[str, str, float, float, float]  # pair, strengths, the true effect, error by chords, error as it is read

AT = 0.9
EVENLY = (0.25, 0.5, 0.75, 1.0)
GRIDS = {"4, evenly": EVENLY, f"{len(NEAR)}, closer near the target": NEAR}


def _logistic(middle: float, slope: float) -> Shape:
    def raw(s: float) -> float:
        return 1 / (1 + math.exp(-slope * (s - middle)))

    return lambda s: (raw(s) - raw(0.0)) / (raw(1.0) - raw(0.0))


SHAPES: dict[str, Shape] = {
    "early": lambda s: (1 - math.exp(-3 * s)) / (1 - math.exp(-3)),
    "half way": _logistic(0.5, 10),
    "late": _logistic(0.75, 12),
}
"""How the target rises with the strength: at once, or where answers turn right at once in the middle or the end."""
PAIRS = ((("early", 0.8, 0.6), ("early", 0.6, 0.6)), (("early", 0.8, 0.6), ("half way", 0.6, 1.8)),
         (("half way", 0.6, 0.6), ("half way", 0.6, 1.8)), (("half way", 0.8, 1.2), ("late", 0.6, 1.2)),
         (("late", 0.6, 0.6), ("late", 0.6, 1.8)))  # fmt: skip
"""(shape, gain, nats lost at full strength) of the method and of the baseline; what is lost rises with the square."""


def curve(shape: str, gain: float, lost: float) -> Curve:
    """The true curve: a target of `gain` over 0, a loss of 3 nats a token and what is lost."""
    return lambda s: Point(s, gain * SHAPES[shape](s), 3.0 + lost * s**2)


def chord(points: Sequence[Point], target: float) -> float:
    """The figure where a target is first reached, on straight lines between the points."""
    reached = [p.target for p in points]
    i = next(i for i, t in enumerate(reached) if t >= target)
    if i == 0:
        return points[0].figure
    share = (target - reached[i - 1]) / (reached[i] - reached[i - 1])
    return points[i - 1].figure + share * (points[i].figure - points[i - 1].figure)


def readings() -> Iterator[Row]:
    """Every pair of curves on every grid of strengths: the true effect, and how far each way of reading is off."""
    for method, baseline in PAIRS:
        curves = [curve(*method), curve(*baseline)]
        target = AT * min(method[1], baseline[1])
        fine = [[c(float(s)) for s in np.linspace(0, 1, 4001)] for c in curves]
        truth = chord(fine[1], target) - chord(fine[0], target)
        for name, strengths in GRIDS.items():
            seen = [[c(s) for s in (0.0, *strengths)] for c in curves]
            read = match(seen[0], seen[1], "higher", at=AT)
            assert read.method is not None and read.baseline is not None
            chords = chord(seen[1], target) - chord(seen[0], target)
            pair = " against ".join(f"{shape}, gain {g:g}, loss {lost:g}" for shape, g, lost in (method, baseline))
            yield pair, name, truth, chords - truth, read.baseline - read.method - truth


def table(rows: Sequence[Row]) -> str:
    """The readings as Markdown."""
    lines = [
        "| curves | strengths | true effect | off by chords | off as it is read |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [f"| {p} | {g} | {t:+.3f} | {c:+.3f} | {r:+.3f} |" for p, g, t, c, r in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tunewright.claims.simulate_reading",
        description="how far figures at matched target are off, on curves of known form",
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into this page, between its marks")
    asked = parser.parse_args()
    text = table(list(readings()))
    print(text)
    if asked.write:
        from tunewright.claims.page import between

        asked.write.write_text(between(asked.write.read_text(encoding="utf-8"), "reading", text), encoding="utf-8")


if __name__ == "__main__":
    main()
