"""Learning-rate factors by step, under the names that everybody uses. A method's `schedule` slot replaces them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


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


def factor_for(loop: Any) -> float | dict[str, float]:
    """The factor of a loop's next step, as its `schedule` method or its `train` section says."""
    own = loop.methods.one("schedule")
    if own is None:
        return factor_of(loop.spec.lr_scheduler_type, _place(loop), loop.plan.steps, loop.plan.warmup_steps)
    got = loop.methods.call(own, "schedule", step=loop.step_number, plan=loop.plan)
    return dict(got) if isinstance(got, Mapping) else float(got)


def _place(loop: Any) -> float:
    """The step in the plan's count: where seconds or operations end the stage, by the share of them that is spent,
    since the plan's steps are an estimate then.
    """
    b = loop.stage.budget
    spent = [used / limit for limit, used in ((b.seconds, loop.seconds), (b.flops, loop.flops)) if limit]
    if not spent:
        return float(loop.step_number)
    counted = [used / limit for limit, used in ((b.steps, loop.step_number), (b.tokens, loop.tokens)) if limit]
    return float(max([*spent, *counted]) * loop.plan.steps)
