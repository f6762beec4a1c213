"""Monotone cubics through points (PCHIP: Fritsch and Butland 1984), in plain numbers: between two neighbours the curve
never leaves their values, so that it has no bumps of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

_HALVINGS = 54  # of an interval: to the last bit of a float


def slopes(x: Sequence[float], y: Sequence[float]) -> list[float]:
    """The curve's derivative at each of at least two points; `x` rising."""
    steps = [b - a for a, b in zip(x, x[1:], strict=False)]
    chords = [(b - a) / h for a, b, h in zip(y, y[1:], steps, strict=False)]
    if len(chords) == 1:
        return [chords[0], chords[0]]
    inner = []
    for h, g, before, after in zip(steps, steps[1:], chords, chords[1:], strict=False):
        if before * after <= 0:
            inner.append(0.0)
        else:
            w, v = 2 * g + h, g + 2 * h
            inner.append((w + v) / (w / before + v / after))
    return [
        _end(steps[0], steps[1], chords[0], chords[1]),
        *inner,
        _end(steps[-1], steps[-2], chords[-1], chords[-2]),
    ]


def _end(h: float, g: float, chord: float, further: float) -> float:
    """The slope at an end: of the parabola through three points, as far as it keeps the curve monotone."""
    slope = ((2 * h + g) * chord - h * further) / (h + g)
    if slope * chord <= 0:
        return 0.0
    return 3 * chord if chord * further <= 0 and abs(slope) > 3 * abs(chord) else slope


def between(x: Sequence[float], y: Sequence[float], tangents: Sequence[float], i: int, at: float) -> float:
    """The curve's value at `at`, which lies between points i - 1 and i."""
    h = x[i] - x[i - 1]
    t = (at - x[i - 1]) / h
    rise = t * t * (3 - 2 * t)
    bend = h * t * (1 - t) * ((1 - t) * tangents[i - 1] - t * tangents[i])
    value = y[i - 1] + rise * (y[i] - y[i - 1]) + bend
    low, high = sorted((y[i - 1], y[i]))
    return min(max(value, low), high)


def reach(x: Sequence[float], y: Sequence[float], i: int, value: float) -> float:
    """Where the curve takes a value that lies between those of points i - 1 and i."""
    tangents = slopes(x, y)
    low, high, rises = x[i - 1], x[i], y[i] > y[i - 1]
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if (between(x, y, tangents, i, middle) < value) == rises:
            low = middle
        else:
            high = middle
    return high
