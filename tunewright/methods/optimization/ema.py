"""EMA: an exponential moving average of the weights is what a stage leaves (Elhady et al. 2025, arXiv:2506.00288, for
going on in another language; papers: language-cpt-emergence).

Every `every` optimizer steps, with theta what trains and theta' its average, which begins at the stage's start,

    theta' <- decay theta' + (1 - decay) theta

and theta' takes the weights' place when the stage ends; evaluations on the way see it too. It holds back a sudden shift
of the weights, with which what a model learns from its context is lost before the new language shows it. Over T steps
the start keeps decay^(T // every) of the average: with a short stage choose them smaller.

Defaults: decay 0.92 every 10 steps, from the names of the authors' scripts.
Differs from the paper in: its text could not be read. In the authors' training loop the averaged weights are what
training goes on from, by a formula whose sign adds to the step instead of taking from it; here training goes on from
its own weights, and the average is the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.method import Method, Plan

MOST_OF_START = 0.1
"""Share of the start in the average above which a stage is told that it has hardly moved."""


class EMA(Method):
    """Keep a moving average of the weights, and leave it as the result."""

    decay: float = Field(0.92, ge=0, lt=1, description="share of itself that the average keeps", examples=[0.5])
    every: PositiveInt = Field(10, description="optimizer steps between two updates of the average", examples=[1])

    divides: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("language-cpt-emergence",)
    conformance: ClassVar[dict[str, object]] = {"decay": 0.5, "every": 1}

    def caution(self, plan: Plan) -> str | None:
        left = self.decay ** (plan.steps // self.every)
        if left <= MOST_OF_START:
            return None
        return (
            f"{left:.0%} of the average is still the start after {plan.steps} steps: write a smaller decay"
            f"{' or a smaller every' if self.every > 1 else ''}"
        )

    def average(self, averaged: dict[str, Tensor], parameters: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        if (step + 1) % self.every:
            return averaged
        return {n: torch.lerp(parameters[n].detach(), a, self.decay) for n, a in averaged.items()}
