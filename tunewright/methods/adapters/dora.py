"""DoRA: weight-decomposed low-rank adaptation (Liu et al. 2024, arXiv:2402.09353).

Each row of a targeted weight W [out, in] is taken apart into its length and its direction. A low-rank change turns the
direction, and a number of its own, m [out], is the length:

    y = x V^T,    V = m (W + s B A) / n,    n = ||W + s B A|| over each row's inputs

A [r, in] and B [out, r] start as LoRA's, m as the lengths of W's rows, so that the model starts as the base. n is held
constant in the gradient, as the paper's section 4.3 has it. Dropout acts on the input of the whole change, as in PEFT,
whose names and adapter format these are (`use_dora`). The change folds; the layer's bias is not scaled.

Defaults: LoRA's (rank 16, s = 2, every linear layer inside the blocks).
Differs from the paper in: targets are all linear layers (there: query, key, value, up, down); lengths are held in the
precision of A and B whatever the weights are in.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tunewright.models.deltas import WeightDecomposed
from tunewright.pieces.low_rank import Start
from tunewright.pieces.rank_stabilised import RankStabilised


class DoRA(RankStabilised):
    """LoRA for the direction of a weight's rows, and a trained length for each."""

    category: ClassVar[str] = "reparameterised"
    low_rank: ClassVar[bool] = False
    divides: ClassVar[bool] = True

    def delta(self, start: Start, A: Tensor, B: Tensor) -> Any:
        lengths = torch.linalg.vector_norm(start.site.matrix().detach().to(A.dtype), dim=1)
        return WeightDecomposed(A, B, lengths, start.scale, dropout=self.dropout)
