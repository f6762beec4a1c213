"""Learning-rate factors by step, under the names that everybody uses. A method's `schedule` slot replaces them."""

from __future__ import annotations

import math


def factor_of(kind: str, step: float, steps: int, warmup: int) -> float:
    """Factor in 0..1 of optimizer step `step` (from 0) of `steps`, after `warmup` steps of linear rise.

    "constant" stays at 1, "linear" falls to 0 behind the last step, "cosine" is half a cosine to 0.
    """
    if step < warmup:
        return (step + 1) / warmup
    if kind == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    if kind == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0 - done


def warmup_of(value: int | float, steps: int) -> int:
    """Warm-up in steps: an int is steps, a float below 1 a share of the stage (the field's convention)."""
    return round(value * steps) if isinstance(value, float) and value < 1 else int(value)
