"""From a budget to a plan: how many optimizer steps fit, counted on the rows' own sizes before training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tunewright.contract.method import Plan
from tunewright.data.order import sizes
from tunewright.training.schedules import warmup_of

FEW_STEPS = 50
COUNT_UP_TO = 200_000  # batches that are counted one by one; beyond, the mean of those is taken
GLANCED_AT = 1_000  # as many where nothing will be trained, as in a check


def plan_stage(
    budget: Any,
    spec: Any,
    cursor: Callable[[], Any],
    *,
    stage: str,
    index: int,
    flops_per_token: float,
    changing: bool = False,
    replay: tuple[str, ...] = (),
    most: int = COUNT_UP_TO,
    reuse: int = 1,
) -> Plan:
    """Make the plan of a stage. `most`: batches that are counted one by one. `reuse`: optimizer steps on each batch.

    `cursor()` gives a fresh cursor over the stage's rows, which ends after the budget's epochs and whose batches are
    counted; `changing`: the mixture follows what is learned, so that counts are estimates. A budget in seconds or
    FLOPs gives an estimate, which what is spent corrects on the way.
    """
    limit_tokens = budget.tokens
    if budget.flops is not None and flops_per_token:
        by_flops = math.ceil(budget.flops / flops_per_token)
        limit_tokens = by_flops if limit_tokens is None else min(limit_tokens, by_flops)
    fresh = cursor()
    sources = {n: int(np.sum(sizes(d.rows))) for n, d in fresh.datasets.items()}
    sets, tokens = _count(fresh, limit_tokens, budget.steps and math.ceil(budget.steps / reuse), most)
    steps = min(sets * reuse, budget.steps or sets * reuse)
    exact = budget.seconds is None and budget.flops is None and not changing
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


def epochs_of(tokens: int, epoch: int, replay: float) -> float:
    """Passes over `epoch` own tokens in `tokens`, of which a share `replay` is replayed."""
    return tokens * (1 - replay) / max(1, epoch)


def steps_per_epoch(steps: int, tokens: int, epoch: int, replay: float) -> float:
    """Optimizer steps to one such pass, where `steps` took `tokens`."""
    return steps / max(epochs_of(tokens, epoch, replay), 1e-9) if steps else 0.0


def few_steps(steps: int, tokens: int, budget: Any, spec: Any, longest: int = 1, *, once: bool = False) -> str | None:
    """What to tell of a stage that takes too few optimizer steps to learn, though nobody asked for so few.

    What to write comes with it: a smaller batch, as far as that helps, and more of what the budget counts. `longest`:
    tokens of the longest row; a step takes one row at least, so that of few rows no batch makes steps enough. `once`:
    one pass was asked for, and no budget may stand beside that.
    """
    if steps >= FEW_STEPS or (budget.steps is not None and steps >= budget.steps):
        return None
    said = f"only {steps} optimizer step{'' if steps == 1 else 's'} for {tokens:,} tokens"
    smaller = max(_two_digits(max(1, tokens // (2 * FEW_STEPS))), longest)
    longer = "tasks.online: false" if once else _longer(budget, 2 * FEW_STEPS / max(1, steps))
    if smaller >= spec.batch_tokens:
        return f"{said}: write {longer}"
    if (then := tokens // smaller) < FEW_STEPS:
        if once:
            return f"{said}: write {longer}"
        most = _longer(budget, 2 * FEW_STEPS / max(1, then))
        return f"{said}: write train.batch_tokens: {smaller} (the longest row) and {most}, or {longer} alone"
    return f"{said}: write train.batch_tokens: {smaller}, or {longer}"


def _longer(budget: Any, times: float) -> str:
    """A budget so many times as long, in the kind that ends the stage."""
    kind = next((k for k in ("epochs", "tokens", "seconds", "flops") if getattr(budget, k) is not None), None)
    if kind is None:
        return "a longer budget"
    value = getattr(budget, kind) * times
    return f"budget: {{{kind}: {math.ceil(value) if kind != 'flops' else f'{value:.1e}'}}}"


def _two_digits(number: int) -> int:
    """Rounded down to two significant digits."""
    unit: int = 10 ** max(0, len(str(number)) - 2)
    return number // unit * unit


def _count(cursor: Any, tokens: int | None, steps: int | None, most: int) -> tuple[int, int]:
    once = sum(len(d.rows) for n, d in cursor.datasets.items() if n not in cursor.replayed)
    # a budget in seconds alone: one epoch shapes the schedule
    last = once if (tokens, steps, cursor.last) == (None, None, None) else cursor.last
    done = used = 0
    while True:
        if (
            (tokens is not None and used >= tokens)
            or (steps is not None and done >= steps)
            or (last is not None and cursor.read >= last)
        ):
            return done, used
        if done >= most:
            shares = [s for s in (tokens and used / tokens, steps and done / steps, last and cursor.read / last) if s]
            return round(done / max(shares)), round(used / max(shares))
        batch = cursor.next_batch()
        done += 1
        used += sum(row.size for row, _ in batch)
