"""Infinite learning-rate schedule for continual pre-training (Singh et al. 2025, arXiv:2503.02844; papers:
infinite-lr).

Warm up, cool down to a rate c that is kept for as long as data comes, and anneal briefly when a model is needed. With
t = 1, 2, ... optimizer steps, as factors of the peak rate:

    warm-up   t <= Tw:              t / Tw cool-down u = (t - Tw) / Tc:    c + (1 - c) (1 + cos pi u) / 2,  or  1 + (c -
    1) h(u) / h(1), h(u) = 1/sqrt(1 + s u) - 1 constant                        c annealing v = (t - Td) / Ta:    c (f /
    c)^v, then f

Lengths given in whole steps do not depend on the stage's length, so that the next stage (with `warmup_steps: 0,
cooldown_steps: 0`) goes on at c from an un-annealed checkpoint.
Raises MethodError where annealing would begin before warm-up does, at a rate of 0.
Differs from the published code in: phases are lengths, not shares or ends of a total, unless written as shares.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from tunewright.contract.method import Method, Plan, Setup, State
from tunewright.errors import MethodError
from tunewright.training.schedules import warmup_of

Length = NonNegativeInt | Annotated[float, Field(ge=0, lt=1)]


def cooldown(u: float, constant: float, shape: Literal["cosine", "inverse-sqrt"], steepness: float = 10.0) -> float:
    """Factor from 1 (u = 0) down to `constant` (u = 1)."""
    if shape == "cosine":
        return constant + (1 - constant) * (1 + math.cos(math.pi * u)) / 2
    return 1 + (constant - 1) * (1 / math.sqrt(1 + steepness * u) - 1) / (1 / math.sqrt(1 + steepness) - 1)


def infinite_factor(
    t: int,
    warmup: int,
    cool: int,
    constant: float,
    *,
    shape: Literal["cosine", "inverse-sqrt"] = "cosine",
    anneal_from: int | None = None,
    anneal: int = 1,
    final: float = 0.1,
) -> float:
    """Factor of the peak rate after t steps; `anneal_from` None: no annealing."""
    if anneal_from is not None and t > anneal_from:
        level = infinite_factor(anneal_from, warmup, cool, constant, shape=shape)
        return level and level * (final / level) ** min(1.0, (t - anneal_from) / anneal)
    if t <= warmup:
        return t / warmup if warmup else (1.0 if cool else constant)
    return cooldown((t - warmup) / cool, constant, shape) if t < warmup + cool else constant


class InfiniteLR(Method):
    """Warm up, cool down, stay, and anneal on demand."""

    warmup_steps: Length = Field(
        0.05, description="optimizer steps of rising rate, or (below 1) their share of the stage", examples=[2]
    )
    cooldown_steps: Length = Field(
        0.45,
        description="optimizer steps from the peak to the constant rate, or (below 1) their share of the stage",
        examples=[1],
    )
    shape: Literal["cosine", "inverse-sqrt"] = Field(
        "cosine", description="of the cool-down", examples=["inverse-sqrt"]
    )
    constant: float = Field(
        0.5, gt=0, le=1, description="the constant rate c, as a factor of the peak", examples=[0.25]
    )
    anneal_steps: PositiveInt | None = Field(
        None, description="optimizer steps of annealing; none: none, so that a later stage can go on", examples=[1]
    )
    anneal_from: NonNegativeInt | None = Field(
        None, description="optimizer step at which annealing begins; none: so that it ends with the stage", examples=[1]
    )
    final: PositiveFloat = Field(
        0.1, description="the rate at the end of annealing, as a factor of the peak", examples=[0.05]
    )

    papers: ClassVar[tuple[str, ...]] = ("infinite-lr",)
    conformance: ClassVar[dict[str, object]] = {"warmup_steps": 1, "cooldown_steps": 2, "anneal_steps": 1}

    def caution(self, plan: Plan) -> str | None:
        warmup, cool = (warmup_of(length, plan.steps) for length in (self.warmup_steps, self.cooldown_steps))
        if self.anneal_steps is not None and self.anneal_from is not None and self.anneal_from >= plan.steps:
            return f"nothing is annealed: anneal_from {self.anneal_from} lies beyond {plan.steps} steps"
        if warmup + cool >= plan.steps:
            return f"the constant rate is not reached: warm-up and cool-down take {warmup + cool} of {plan.steps} steps"
        return None

    def setup(self, run: Setup) -> State:
        if self._annealed_from(run.plan) == 0 and warmup_of(self.warmup_steps, run.plan.steps):
            raise MethodError(
                f"'infinite-lr' anneals from the first of {run.plan.steps} steps on, where warm-up has not begun and "
                "the rate is 0: nothing would be learnt",
                where="infinite-lr.anneal_steps" if self.anneal_from is None else "infinite-lr.anneal_from",
                remedy="write fewer anneal_steps, a later anneal_from or warmup_steps: 0, or give a larger budget",
            )
        return State()

    def _annealed_from(self, plan: Plan) -> int | None:
        """The step behind which annealing begins."""
        if self.anneal_steps is None:
            return None
        return max(0, plan.steps - self.anneal_steps) if self.anneal_from is None else self.anneal_from

    def schedule(self, step: int, plan: Plan) -> float:
        return infinite_factor(
            step + 1,
            warmup_of(self.warmup_steps, plan.steps),
            warmup_of(self.cooldown_steps, plan.steps),
            self.constant,
            shape=self.shape,
            anneal_from=self._annealed_from(plan),
            anneal=self.anneal_steps or 1,
            final=self.final,
        )
