"""From a budget to a plan: how many optimizer steps fit, counted on the rows' own sizes before training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tunewright.contract.method import Plan
from tunewright.training.schedules import warmup_of

COUNT_UP_TO = 200_000  # batches that are counted one by one; beyond, the mean of those is taken


def plan_stage(
    budget: Any,
    spec: Any,
    cursor: Callable[[], Any],
    rows: int,
    *,
    stage: str,
    index: int,
    flops_per_token: float,
    changing: bool = False,
    replay: tuple[str, ...] = (),
) -> Plan:
    """Make the plan of a stage.

    `cursor()` gives a fresh cursor over the stage's `rows` rows, whose batches are counted; `changing`: the mixture
    follows what is learned, so that counts are estimates. A budget in seconds gives an estimate that the clock
    corrects.
    """
    limit_tokens = budget.tokens
    if budget.flops is not None and flops_per_token:
        by_flops = math.ceil(budget.flops / flops_per_token)
        limit_tokens = by_flops if limit_tokens is None else min(limit_tokens, by_flops)
    fresh = cursor()
    sources = {n: sum(r.size for r in d.rows) for n, d in fresh.datasets.items()}
    steps, tokens = _count(fresh, limit_tokens, budget.steps, budget.epochs, rows)
    exact = budget.seconds is None and not changing
    return Plan(
        steps=max(1, steps),
        tokens=tokens,
        stage=stage,
        index=index,
        learning_rate=spec.learning_rate,
        warmup_steps=warmup_of(spec.warmup_steps, max(1, steps)),
        exact=exact,
        sources=sources,
        replay=replay,
    )


def _count(cursor: Any, tokens: int | None, steps: int | None, epochs: float | None, rows: int) -> tuple[int, int]:
    if tokens is None and steps is None and epochs is None:
        return _count(cursor, None, None, 1, rows)  # a budget in seconds alone: one epoch shapes the schedule
    done = seen = used = 0
    while True:
        if (
            (tokens is not None and used >= tokens)
            or (steps is not None and done >= steps)
            or (epochs is not None and seen >= epochs * rows)
        ):
            return done, used
        if done >= COUNT_UP_TO:
            shares = [
                s for s in (tokens and used / tokens, steps and done / steps, epochs and seen / (epochs * rows)) if s
            ]
            return round(done / max(shares)), round(used / max(shares))
        batch = cursor.next_batch()
        done += 1
        seen += len(batch)
        used += sum(row.size for row, _ in batch)
