"""MAS: memory aware synapses, hold what the model's answers are sensitive to (Aljundi et al. 2018, arXiv:1711.09601;
papers: mas).

    O <- O + O_t / mean(O_t);   O_t = mean over rows of |d |z|^2 / d W|;   penalty of later tasks = lambda sum O D^2

z [V] are a target's logits, D [out, in] is how far a weight has moved since the task began (for LoRA: the change of s B
A and what was folded). No label is read. O_t is taken at the end of each stage over `samples` of its rows, a backward
pass each, and divided by its mean over all weights looked at, so that lambda has one meaning whatever the size of the
logits. The first task has no penalty. What is kept (`importance`, as large as the weights that are looked at) is left
to later stages.

Defaults: lambda 1 (the paper's, of importances that are not divided). Source: the paper's equations 2 to 4, and
rahafaljundi/MAS-Memory-Aware-Synapses (MAS_utils/MAS_based_Training.py), which average over batches of rows.
Differs from the paper in: importances are normalised, and read of weights of linear layers alone; of a row with several
targets the mean of their |z|^2 counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from tunewright.contract.method import Method, Need, Needs, Setup, State
from tunewright.methods.needs.output_sensitivity import OutputSensitivity
from tunewright.pieces.weight_importance import changes, check_shape, normalised

NAME = "mas"


class MAS(Method):
    """Hold back weights that the model's answers to earlier tasks' rows are sensitive to."""

    coefficient: NonNegativeFloat = Field(1.0, description="lambda, weight of the penalty", examples=[100.0, 0.0])
    samples: PositiveInt = Field(256, description="rows for the importances, one backward pass each", examples=[1])
    target_modules: str | tuple[str, ...] = Field(
        "all-linear", description="weights to hold back: all-linear, or module names or endings", examples=[["q_proj"]]
    )

    quantised: ClassVar[bool] = False
    leaves: ClassVar[tuple[str, ...]] = ("importance",)
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"coefficient": 50.0, "samples": 4}
    conformance_stages: ClassVar[int] = 2

    def needs(self) -> Sequence[Need]:
        return (OutputSensitivity(source="train", samples=self.samples, target_modules=self.target_modules),)

    def setup(self, run: Setup) -> State:
        state, before = State(), run.earlier.latest(NAME)
        for site, importance in (before.values["importance"] if before else {}).items():
            state.set_buffer(f"importance.{site}", importance)
        return state

    def penalty(self, weights: Mapping[str, Any], state: State) -> Tensor:
        total = torch.zeros(())
        for site, change in changes(weights):
            importance = state.get(f"importance.{site}")
            if importance is not None:
                check_shape(importance.shape, change.shape, site, NAME)
                total = total.to(change.device) + (importance * change.square()).sum()
        return self.coefficient * total

    def end_task(self, needs: Needs, state: State) -> None:
        for site, importance in normalised(needs.output_sensitivity).items():
            before = state.get(f"importance.{site}", torch.zeros_like(importance))
            state.set_buffer(f"importance.{site}", before + importance)
