"""EMA-merge: each update of a sequence is merged with what it began from (Roth et al. 2024, arXiv:2408.14471, as one of
the ways to merge along a stream of updates; papers: fomo-in-flux).

    theta_i  <-  weight theta_(i-1) + (1 - weight) tuned(theta_(i-1))

theta_(i-1) is what the stage begins with, tuned(.) what its training comes to, and theta_i what it leaves: the next
stage begins from there. With one weight for all of them, older updates count less and less: an exponential average over
updates, where `ema` is one over the steps within one. Evaluations on the way see the merged weights. A copy of what
trains is kept while the stage runs.

Of low-rank changes the factors are merged, each for itself, which is another change than the mean of their products: a
fresh one, whose B begins at 0, comes to (1 - weight) B A for an A near its start.

Defaults: weight 0.9 is ours: the paper's value could not be read.
Differs from the paper in: nothing that is known of; it was read in summaries, since its code is not public.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tunewright.contract.method import Method, State


class EMAMerge(Method):
    """Merge what a stage comes to with what it began from."""

    weight: float = Field(0.9, gt=0, lt=1, description="share of the stage's start in its result", examples=[0.3])

    papers: ClassVar[tuple[str, ...]] = ("fomo-in-flux",)
    conformance: ClassVar[dict[str, object]] = {"weight": 0.5}

    def average(self, averaged: dict[str, Tensor], parameters: Mapping[str, Tensor], state: State) -> dict[str, Tensor]:
        out = {}
        for name, value in averaged.items():
            start = state.get(f"copy.{name}")
            if start is None:  # before the first step the average is the stage's start
                start = value.detach().clone()
                state.set_buffer(f"copy.{name}", start)
            out[name] = torch.lerp(parameters[name].detach(), start, self.weight)
        return out
