"""InfLoRA: a low-rank change for each task in a subspace that earlier tasks' inputs do not reach (Liang & Li 2024,
arXiv:2404.00228; papers: inflora).

    y = x (W + s sum_(i <= t) B_i A_i)^T

A_t [r, in] is not trained: its rows are the r directions outside of M along which the new task's inputs of the layer
are longest, divided by sqrt(3). B_t [out, r] alone trains, from zero.

M [in, k] is an orthonormal basis of the directions that earlier tasks' inputs use (`pieces/input_subspaces.py`): each
task adds, when it ends, as few as hold a share `threshold` of its inputs' squared length. As A_t M = 0, what the layer
says of inputs in M stays as it was: training B_t is fine-tuning the weight inside a subspace. Earlier changes do not
train any more, whatever `carry` says; fold is the default. M is left to later stages, k x in numbers a layer.

Cost: two passes over `samples` rows, at the stage's start and end. Where M leaves fewer than r directions, the rest of
A is zero; where it leaves none in any layer, a MethodError says so.

Defaults: r 10, s 1 and threshold 0.98 (the authors', who raise it from task to task to 1). Source: the paper's
equations 7 to 11, liangyanshuo/InfLoRA (methods/inflora.py). Differs from the paper in: all linear layers, unless
`target_modules` says otherwise (there keys and values); M is kept itself, where the authors keep its complement once
that is smaller; the loss is the task's own (there over the task's classes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.found import Found
from tunewright.contract.method import Need, Needs, Setup, State
from tunewright.errors import MethodError
from tunewright.methods.needs.input_covariance import InputCovariance
from tunewright.methods.needs.input_covariance_at_end import InputCovarianceAtEnd
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import LowRankFixedA, set_frozen
from tunewright.models.experts import expert
from tunewright.pieces.input_subspaces import free_directions, keep_inputs
from tunewright.pieces.low_rank import LowRankMethod, Start
from tunewright.pieces.weight_importance import check_shape

NAME = "inflora"


class InfLoRA(LowRankMethod):
    """Learn each task along input directions that earlier tasks do not use."""

    rank: PositiveInt = Field(10, description="rank r of each task's change", examples=[2])
    threshold: float = Field(
        0.98, gt=0, le=1, description="share of a task's inputs that the kept directions hold", examples=[0.3]
    )
    samples: PositiveInt = Field(256, description="rows from which inputs are read", examples=[1])

    dropout: ClassVar[float] = 0.0  # type: ignore[misc]
    default_scale: ClassVar[float] = 1.0
    leaves: ClassVar[tuple[str, ...]] = ("basis",)
    category: ClassVar[str] = "reparameterised"
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"rank": 2, "threshold": 0.6, "samples": 4}
    conformance_stages: ClassVar[int] = 2

    def needs(self) -> Sequence[Need]:
        asked = {"source": "train", "samples": self.samples, "target_modules": self.target_modules}
        return InputCovariance(**asked), InputCovarianceAtEnd(**asked)  # type: ignore[arg-type]

    def setup(self, run: Setup) -> State:
        state, before = super().setup(run), run.earlier.inherited(NAME)
        state.data["basis"] = {}
        for site, basis in (before.values["basis"] if before else {}).items():
            state.set_buffer(f"basis.{site}", basis)
        return state

    def initial(self, start: Start) -> tuple[Tensor, Tensor]:
        C = start.needs.input_covariance.get(start.site.name)
        B = torch.zeros(start.site.out_features, start.rank)
        if C is None:  # no row reaches the layer: it does not change
            return torch.zeros(start.rank, start.site.in_features), B
        rows, basis = torch.zeros(start.rank, start.site.in_features), start.state.get(f"basis.{start.site.name}")
        if basis is not None:
            check_shape(basis.shape[:1], C.shape[:1], f"inputs of {start.site.name}", NAME)
        found = free_directions(basis, C, start.rank).cpu()
        rows[: len(found)] = found / math.sqrt(3)
        return rows, B

    def delta(self, start: Start, A: Tensor, B: Tensor) -> LowRankFixedA:
        return LowRankFixedA(A, B, start.scale)

    def begin_task(self, stage: str, adapted: Adapted) -> None:
        own: list[Any] = [of[NAME] for of in adapted.deltas().values() if NAME in of]
        if not any(bool(d.lora_A.any()) for d in own):
            raise MethodError(
                "earlier tasks use every direction of every layer's inputs: nothing is left to learn in",
                where=f"stages.{stage}.methods",
                remedy="lower the threshold of the stages before",
            )
        for earlier in expert(adapted.structure, NAME):
            for p in earlier.parameters() if not any(earlier is d for d in own) else ():
                set_frozen(p, True)

    def end_task(self, needs: Needs, state: State) -> None:
        keep_inputs(state, needs.input_covariance_at_end, self.threshold)

    def found(self, state: State) -> Found:
        held = {n.removeprefix("basis/").replace("/", "."): t for n, t in state.named_buffers() if "basis/" in n}
        shares = [t.shape[1] / t.shape[0] for t in held.values()]
        return Found(
            "Input directions in use",
            "of each layer's input directions those that tasks so far use and later ones leave alone (share, 0 to 1)",
            {"mean": sum(shares) / max(1, len(shares)), "most": max(shares, default=0.0)},
        )
