"""Online EWC: hold what earlier tasks were sensitive to, with one running importance for all of them (Schwarz et al.
2018, arXiv:1805.06370, after elastic weight consolidation, Kirkpatrick et al. 2017, arXiv:1612.00796).

At the end of task t the diagonal Fisher information F_t [out, in] of its rows is taken at the weights that it ended
with, and kept beside the decayed one of the tasks before:

    F* <- gamma F* + F_t / mean(F_t);      penalty of the next task = lambda / 2 sum F* D^2

D [out, in] is how far a weight has moved since the task began (for LoRA: the change of s B A and what was folded), F_t
is divided by its mean over all weights looked at, so that tasks with larger losses do not count more and lambda has one
meaning. The first task has no penalty. What is kept (`fisher`, as large as the weights that are looked at) is left to
later stages under `stages.<name>.fisher`; a stage that reads it carries on from the last stage that had this method.

Defaults: gamma 0.95 and lambda 1 are ours (the paper searches both).
Differs from the paper in: no separate knowledge base and active column; the Fisher is the empirical one, over `samples`
rows of the task, a backward pass each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from tunewright.contract.method import Method, Need, Needs, Setup, State
from tunewright.methods.needs.fisher_at_end import FisherAtEnd
from tunewright.pieces.weight_importance import changes, check_shape, normalised

NAME = "online-ewc"


class OnlineEWC(Method):
    """A running importance of earlier tasks' weights, and a penalty on moving them."""

    coefficient: NonNegativeFloat = Field(1.0, description="lambda, weight of the penalty", examples=[100.0, 0.0])
    gamma: float = Field(
        0.95, ge=0, le=1, description="share of the earlier importance that a task keeps", examples=[0.5]
    )
    samples: PositiveInt = Field(
        256, description="rows for the Fisher information, one backward pass each", examples=[1]
    )
    target_modules: str | tuple[str, ...] = Field(
        "all-linear", description="weights to hold back: all-linear, or module names or endings", examples=[["q_proj"]]
    )

    quantised: ClassVar[bool] = False
    leaves: ClassVar[tuple[str, ...]] = ("fisher",)
    conformance: ClassVar[dict[str, object]] = {"coefficient": 50.0, "samples": 4}
    conformance_stages: ClassVar[int] = 2

    def needs(self) -> Sequence[Need]:
        return (FisherAtEnd(source="train", samples=self.samples, target_modules=self.target_modules),)

    def setup(self, run: Setup) -> State:
        state, before = State(), run.earlier.latest(NAME)
        for site, importance in (before.values["fisher"] if before else {}).items():
            state.set_buffer(f"fisher.{site}", importance)
        return state

    def penalty(self, weights: Mapping[str, Any], state: State) -> Tensor:
        total = torch.zeros(())
        for site, change in changes(weights):
            importance = state.get(f"fisher.{site}")
            if importance is not None:
                check_shape(importance.shape, change.shape, site, NAME)
                total = total.to(change.device) + (importance * change.square()).sum()
        return self.coefficient / 2 * total

    def end_task(self, needs: Needs, state: State) -> None:
        for site, importance in normalised(needs.fisher_at_end).items():
            before = state.get(f"fisher.{site}", torch.zeros_like(importance))
            state.set_buffer(f"fisher.{site}", self.gamma * before + importance)
