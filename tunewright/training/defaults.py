"""The rule by which a recipe that leaves them out gets its learning rate, batch, epochs and warm-up.

Plain arithmetic on what is known before training: the task, the rows and their lengths, the model's width, and the
rates that the methods name. Every value comes with its reason in words. docs/defaults.md states the rule, what it was
fitted on, and how far it gets on data that it was not fitted on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["answers", "plain text", "pairs", "classes", "pictures"]

WIDTH = 1024
"""The model's width that methods' rates are for."""
NARROWER = 0.75
"""The rate grows with this power of WIDTH / width: narrow models take larger steps."""
ADAPTER_RATE, WEIGHT_RATE = 8e-4, 8e-5
"""Where no method names a rate: of weights that are added, and of the model's own."""
ROWS = (4, 32)
"""Rows of an optimizer step, at least and at most."""
STEPS_AN_EPOCH = 24
"""Optimizer steps that an epoch of few rows is cut into, as far as ROWS allow."""
MOST_TOKENS = 16_000
"""Of an optimizer step of long rows."""
MOST_READ = 64
"""Rows of a step that are read to pick by them, once each."""
STEPS = 100
"""Optimizer steps to learn in at least: with fewer rows there are more epochs."""
PASSES: Mapping[Kind, float] = {"answers": 5, "plain text": 8, "pairs": 4, "classes": 10, "pictures": 16}
"""Epochs over a hundred rows; they fall with a power of the rows."""
FALL = 0.25
GROWS: Mapping[Kind, float] = {"plain text": 0.5}
"""The rate of added weights grows with this power of the rows of a step, from the least of ROWS on."""
MOST_EPOCHS = 30
WARMUP = 0.1


@dataclass(frozen=True)
class Facts:
    """What the rule goes by. `rows` and `tokens` are those of one epoch; a picture counts as one token.

    `sizes`: tokens of some rows, in no order, where they are known.

    `rates`: what the stage's methods say of rates, of those that say anything (task or "" -> rate); `adds`: whether
    what trains was added to the model; `factor`: the product of the methods' factors; `by_width`, `by_rows`: the powers
    of WIDTH / width and of rows a step that they ask for beside; `width`: the model's, none where
    it is not known; `fresh`: whether the model's own weights are random; `once`: whether rows are read to pick by them,
    so that a second time says nothing new; `together`: whether each row is told from the others of its step.
    """

    task: str
    kind: Kind
    rows: int
    tokens: int
    width: int | None
    rates: Sequence[Mapping[str, float]] = ()
    adds: bool = True
    factor: float = 1.0
    by_width: float = 0.0
    by_rows: float = 0.0
    sizes: Sequence[int] = ()
    fresh: bool = False
    once: bool = False
    together: bool = False


@dataclass(frozen=True)
class Given:
    """What a recipe says itself; none: it is left to the rule. `limited`: it says when training ends."""

    learning_rate: float | None = None
    batch_tokens: int | None = None
    warmup_steps: int | float | None = None
    limited: bool = False


NOTHING = Given()


@dataclass(frozen=True)
class Setting:
    """A value and why it is this one."""

    value: float
    reason: str


def derive(facts: Facts, given: Given = NOTHING) -> dict[str, Setting]:
    """Values for what the recipe leaves out: any of learning_rate, batch_tokens, epochs, warmup_steps."""
    out: dict[str, Setting] = {}
    batch = given.batch_tokens
    if given.learning_rate is None:
        out["learning_rate"] = _rate(facts, batch)
    if batch is None:
        out["batch_tokens"] = _batch(facts)
        batch = int(out["batch_tokens"].value)
    if not given.limited:
        out["epochs"] = _epochs(facts, batch)
    if given.warmup_steps is None:
        out["warmup_steps"] = Setting(WARMUP, "a tenth of the steps")
    return out


def _rate(facts: Facts, batch: int | None) -> Setting:
    said = next((r for r in facts.rates if facts.task in r or "" in r), None)
    if facts.fresh and not facts.adds:
        rate, whose = ADAPTER_RATE, "that of weights that are drawn afresh"
    elif said is not None:
        rate, whose = said.get(facts.task, said.get("", 0.0)), "the method's own"
    else:
        rate = ADAPTER_RATE if facts.adds else WEIGHT_RATE
        whose = "that of added weights" if facts.adds else "that of the model's own weights"
    width, faster = facts.width or WIDTH, _faster(facts, batch)
    scaled = two_digits(rate * facts.factor * faster * (WIDTH / width) ** (NARROWER + facts.by_width))
    asked = facts.factor * (WIDTH / width) ** facts.by_width
    whose += f" times {asked:.2g} for the objective" if (facts.factor, facts.by_width) != (1, 0) else ""
    whose += f" times {faster:.2g} for {facts.kind} in such steps," if faster != 1 else ""
    at = f"at this model's width of {width:,}" if facts.width else "(the model's width is not known)"
    return Setting(scaled, f"{whose} {at}")


def _faster(facts: Facts, batch: int | None) -> float:
    """What the rate of added weights grows by in steps of many rows."""
    power = GROWS.get(facts.kind, 0.0) + facts.by_rows
    if not facts.adds or not power:
        return 1.0
    rows = rows_a_step(facts.rows) if batch is None else batch * facts.rows / max(1, facts.tokens)
    return float((min(max(rows, ROWS[0]), ROWS[1]) / ROWS[0]) ** power)


def _batch(facts: Facts) -> Setting:
    size = facts.tokens / max(1, facts.rows)
    rows = min(facts.rows, MOST_READ) if facts.once else rows_a_step(facts.rows)
    rows = min(facts.rows, ROWS[1]) if facts.together else rows
    tokens = max(1, math.ceil(rows * size))
    if facts.kind == "pictures":
        each = "" if size <= 1 else f", {size:,.0f} tokens each"
        return Setting(max(rows, min(tokens, MOST_TOKENS)), f"{rows} pictures a step, of {facts.rows:,}{each}")
    if tokens > MOST_TOKENS:
        return Setting(MOST_TOKENS, f"as many rows of {size:,.0f} tokens as fit")
    both = " (both sides of a pair)" if facts.kind == "pairs" else ""
    return Setting(_up(tokens), f"about {rows} rows of {size:,.0f} tokens{both} a step")


def rows_a_step(rows: int) -> int:
    """Rows of an optimizer step: a power of two that cuts an epoch into about STEPS_AN_EPOCH steps."""
    power: int = 2 ** round(math.log2(max(1.0, rows / STEPS_AN_EPOCH)))
    return min(max(power, ROWS[0]), ROWS[1])


def _epochs(facts: Facts, batch: int) -> Setting:
    if facts.once:
        return Setting(1, "each row is read once")
    an_epoch = max(1.0, facts.tokens / max(1, batch))
    passes = PASSES[facts.kind] * (100 / max(100, facts.rows)) ** FALL
    epochs = max(1, round(passes))
    reason = f"for {facts.rows:,} rows"
    if epochs * an_epoch < STEPS:
        epochs = min(MOST_EPOCHS, math.ceil(STEPS / an_epoch))
        reason += f", to reach {STEPS} steps" if epochs * an_epoch >= STEPS else ", which are few"
    steps = round(epochs * (_cut(facts.sizes, batch) * facts.rows / len(facts.sizes) if facts.sizes else an_epoch))
    return Setting(epochs, f"{reason}: about {steps:,} optimizer steps")


def _cut(sizes: Sequence[int], batch: int) -> int:
    """Steps that rows in this order are cut into: where the next whole one does not fit."""
    steps, filled = 0, 0
    for size in sizes:
        if not steps or filled + size > batch:
            steps, filled = steps + 1, 0
        filled += size
    return steps


def two_digits(value: float) -> float:
    """The number as people write it, to two significant digits."""
    return float(f"{value:.2g}")


def _up(tokens: int) -> int:
    """The next number of two significant digits."""
    unit: int = 10 ** max(0, len(str(tokens)) - 2)
    return math.ceil(tokens / unit) * unit
