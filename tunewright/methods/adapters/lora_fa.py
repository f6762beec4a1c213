"""LoRA-FA: LoRA with a frozen A (Zhang et al. 2023, arXiv:2308.03303).

y = x (W + s B A)^T with A [r, in] drawn once and frozen: B [out, r] alone trains, from zero. The backward pass needs
x A^T [T, r] of a layer and not its input x [T, in], so that activations, gradients and the optimizer's state shrink;
what the change can be stays in the row space of A. Start, scale and defaults are LoRA's. Saved as plain LoRA.

`project` is the step of the authors' later version and of PEFT's optimizer: each gradient of B is turned into the one
whose change of the weight is nearest to full fine-tuning's, g (A A^T)^-1 / s^2, before the optimizer sees it.

Differs from the paper in: A is LoRA's uniform draw (there: normal), as in PEFT; activations shrink on the fused path,
without dropout (with it, dropout's own copy of x is kept).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tunewright.contract.method import State
from tunewright.models.deltas import LowRankFixedA
from tunewright.pieces.low_rank import Start
from tunewright.pieces.rank_stabilised import RankStabilised

DAMPING = 1e-8
"""Added to the diagonal of A A^T, as in PEFT."""


def projection(A: Tensor, scale: float) -> Tensor:
    """(A A^T)^-1 / s^2 [r, r]: g times it is the gradient of B by which s B A moves most like the whole weight."""
    return torch.linalg.pinv(A @ A.T + DAMPING * torch.eye(len(A), device=A.device)) / scale**2


class LoRAFA(RankStabilised):
    """LoRA whose A is frozen: B alone trains."""

    project: bool = Field(
        False, description="turn each gradient of B into the nearest to full fine-tuning's", examples=[True]
    )

    category: ClassVar[str] = "reparameterised"
    divides: ClassVar[bool] = True
    conformance: ClassVar[dict[str, object]] = {"rank": 2, "project": True}

    def delta(self, start: Start, A: Tensor, B: Tensor) -> LowRankFixedA:
        if self.project:
            start.state.set_buffer(f"project.{start.site.name}", projection(A, start.scale))
        return LowRankFixedA(A, B, start.scale, dropout=self.dropout)

    def gradient(self, gradients: Mapping[str, Tensor], state: State) -> dict[str, Tensor] | None:
        if not self.project:
            return None
        turned = dict(gradients)
        for site in state.data["sites"]:
            matrix: Any = state.get(f"project.{site}")
            for name in (n for n in gradients if n.startswith(f"{site}.delta.") and n.endswith(".lora_B")):
                turned[name] = gradients[name] @ matrix.to(gradients[name])
        return turned
