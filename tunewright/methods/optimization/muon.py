"""Muon: steps of matrices are made orthogonal (Jordan et al. 2024, kellerjordan.github.io/posts/muon; scaled as in Liu
et al. 2025, arXiv:2502.16982).

Of the Nesterov momentum M of a weight [out, in] inside the blocks, the step is about U V^T where M = U S V^T (five
Newton-Schulz iterations): every direction moves by as much. Scaled by 0.2 sqrt(max(out, in)) its entries are as large
as AdamW's steps, so that AdamW's rates serve. Embeddings, heads, norms, biases and compact entries take AdamW with
`rest` times the recipe's rate; the matrices themselves are torch's `Muon`.

Momentum 0.95 and five iterations are the authors'. Made for whole matrices: a low-rank pair's factors are matrices too
and are stepped so, which no paper recommends.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from tunewright.contract.method import Method
from tunewright.models.sites import Structure


class Muon(Method):
    """Orthogonal steps for the matrices of the blocks, AdamW for the rest."""

    momentum: float = Field(0.95, ge=0, lt=1, description="share of the momentum that goes on", examples=[0.8])
    ns_steps: PositiveInt = Field(5, description="Newton-Schulz iterations", examples=[3])
    rest: PositiveFloat = Field(
        1.0, description="AdamW's learning rate for the rest, over the recipe's", examples=[0.5]
    )
    betas: tuple[float, float] = Field(
        (0.9, 0.999), description="AdamW's decay rates of its two moments", examples=[[0.8, 0.9]]
    )
    group: Literal["all", "base", "delta", "owned"] = Field(
        "all", description="parameters that it steps; the recipe's optimizer takes the others", examples=["owned"]
    )

    def optimizer(
        self,
        parameters: dict[str, nn.Parameter],
        learning_rate: float,
        weight_decay: float,
        structure: Structure,
    ) -> list[torch.optim.Optimizer]:
        matrices = [p for n, p in parameters.items() if p.dim() == 2 and structure.block_of(n) is not None]
        held = {id(p) for p in matrices}
        others = [p for p in parameters.values() if id(p) not in held]
        made: list[torch.optim.Optimizer] = []
        if matrices:
            made.append(
                torch.optim.Muon(
                    matrices,
                    lr=learning_rate,
                    weight_decay=weight_decay,
                    momentum=self.momentum,
                    ns_steps=self.ns_steps,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if others:
            rate, betas = self.rest * learning_rate, self.betas
            made.append(torch.optim.AdamW(others, lr=rate, betas=betas, weight_decay=weight_decay, fused=True))
        return made
