"""O-LoRA: a low-rank change for each task, whose rows are held orthogonal to those of tasks before (Wang et al. 2023,
arXiv:2310.14152; papers: o-lora). It is another method than `olora`, which is a start from a QR decomposition.

    y = x (W + s sum_(i <= t) B_i A_i)^T;   penalty of task t = lambda sum over layers, i < t of sum |A_i A_t^T|

Earlier tasks' A_i [r, in] and B_i do not train any more: they are folded (`carry: fold`, the default), or stay as they
are. The A_i of all tasks are left to later stages (`earlier`), r x in numbers a layer and task, and nothing else of
them. The first task has no penalty. No row is kept, and any task is served.

Defaults: r 8, s 1 on attention's and other linear layers; lambda 0.5 (the authors'). Source: cmnfriend/O-LoRA
(src/uie_trainer_lora.py), which sums absolute values; the paper squares them. Differs from the paper in: its LoRA is on
queries and values, here on all linear layers unless `target_modules` says otherwise; no penalty on the norm of A and B
(the authors' second lambda, 0 in most of their runs).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from tunewright.contract.method import Setup, State
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import set_frozen
from tunewright.models.experts import expert
from tunewright.pieces.low_rank import LowRankMethod
from tunewright.pieces.weight_importance import check_shape

NAME = "o-lora"


class OLoRA(LowRankMethod):
    """Learn each task in low-rank directions that are orthogonal to those of the tasks before."""

    rank: PositiveInt = Field(8, description="rank r of each task's change", examples=[2])
    coefficient: NonNegativeFloat = Field(
        0.5, description="lambda, weight of the overlap with earlier tasks' rows", examples=[5.0, 0.0]
    )

    default_scale: ClassVar[float] = 1.0
    leaves: ClassVar[tuple[str, ...]] = ("earlier",)
    category: ClassVar[str] = "reparameterised"
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"rank": 2}
    conformance_stages: ClassVar[int] = 2

    def setup(self, run: Setup) -> State:
        state, before = super().setup(run), run.earlier.inherited(NAME)
        for site, rows in (before.values["earlier"] if before else {}).items():
            state.set_buffer(f"earlier.{site}", rows)
        return state

    def begin_task(self, adapted: Adapted) -> None:
        own = {id(d) for of in adapted.deltas().values() for n, d in of.items() if n == NAME}
        for earlier in expert(adapted.structure, NAME):
            for p in earlier.parameters() if id(earlier) not in own else ():
                set_frozen(p, True)

    def penalty(self, weights: Mapping[str, Any], state: State) -> Tensor:
        total = torch.zeros(())
        for weight in weights.values():
            rows, own = state.get(f"earlier.{weight.site.name}"), weight.deltas.get(NAME)
            if rows is not None and own is not None:
                check_shape(rows.shape[1:], own.lora_A.shape[1:], f"inputs of {weight.site.name}", NAME)
                overlap = (rows.float() @ own.lora_A.float().T).abs().sum()
                total = total.to(overlap.device) + overlap
        return self.coefficient * total

    def end_task(self, adapted: Adapted, state: State) -> None:
        for site, deltas in adapted.deltas().items():
            if NAME in deltas:
                own: Any = deltas[NAME]
                rows = own.lora_A.detach().float()
                before = state.get(f"earlier.{site}")
                state.set_buffer(f"earlier.{site}", rows if before is None else torch.cat([before.to(rows), rows]))
