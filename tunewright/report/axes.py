"""Axes for small pictures: a range, round ticks, and the place of a value in pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass


def nice_step(span: float, wanted: int) -> float:
    """The round step (1, 2, 2.5 or 5 times a power of ten) that divides `span` into about `wanted` parts."""
    raw = span / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(raw))
    return next((m * power for m in (1, 2, 2.5, 5) if m * power >= raw * 0.999), 10 * power)


@dataclass(frozen=True)
class Axis:
    """Maps values `low`..`high` to pixels `start`..`end` (either may be the larger)."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    format: Callable[[float], str]

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def percent(value: float) -> str:
    """A fraction as per cent, no decimals where none are needed."""
    return f"{100 * value:.4g} %".replace("-", "\u2212")


def decimal(value: float) -> str:
    """A short decimal; powers of ten as exponents where zeros would be counted."""
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return power_of_ten(value)
    return f"{value:.6g}".replace("-", "\u2212")


def power_of_ten(value: float) -> str:
    """A small number with its exponent, zero as 0: '5e-4'."""
    if value == 0:
        return "0"
    digits, power = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(power)}".replace("-", "\u2212")


def axis(
    values: Iterable[float | None],
    start: float,
    end: float,
    *,
    wanted: int = 5,
    floor: float | None = None,
    ceiling: float | None = None,
    zero: bool = False,
    format: Callable[[float], str] = decimal,
    snap: bool = True,
) -> Axis:
    """An axis that holds all finite `values`.

    `zero` makes zero part of it; `floor` and `ceiling` are values that the range never passes (a fraction's 0 and 1);
    `snap` widens the range to whole ticks. Nothing to show, or one value only, still gives a range.
    """
    finite = [v for v in values if v is not None and math.isfinite(v)] + ([0.0] if zero else [])
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if max(abs(low), abs(high)) < 1e-12:  # nothing that is drawn is that small: it is rounding around zero
        low, high = 0.0, 1.0
    elif high - low <= 1e-12 * max(abs(low), abs(high)):
        low, high = low - 0.1 * abs(low), high + 0.1 * abs(high)
    if floor is not None:
        low = max(low, floor)
    if ceiling is not None:
        high = min(high, ceiling)
    step = nice_step(high - low, wanted)
    if snap:
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    digits = max(12, 3 - math.floor(math.log10(step)))
    ticks = tuple(round(i * step, digits) for i in range(first, last + 1))
    if format is decimal and 0 < max((abs(t) for t in ticks), default=0.0) < 0.01:
        format = power_of_ten
    return Axis(low, high, start, end, ticks, format)
