"""PiSSA: LoRA that starts from a weight's principal singular values and vectors (Meng et al. 2024, arXiv:2404.02948).

With W = U S V^T [out, in], the first r components train and the rest stays frozen:

    B = U_r (S_r / s)^1/2 [out, r]     A = (S_r / s)^1/2 V_r^T [r, in]     s = alpha / r

What is frozen, W - s B0 A0, is written as the offset of the delta, so that the base itself is never edited and the
result is saved as plain LoRA of rank 2r on the base (PEFT's own conversion gives the same). Rank 16; alpha is the rank
(s = 1) and there is no dropout, as in the authors' code.

Raises MethodError for a rank above a layer's narrower side, and for layers in 4 bits.
Differs from the paper in: an exact SVD of each layer in turn (there a randomised one is offered beside it); the frozen
part is not quantised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from tunewright.pieces.convolving import ConvolvingLowRank
from tunewright.pieces.low_rank import Start


def principal(W: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """(A [r, in], B [out, r]) with scale B A = the best approximation of W [out, in] of that rank, shared evenly."""
    U, S, Vt = torch.linalg.svd(W, full_matrices=False)
    root = (S[:rank] / scale).sqrt()
    return root[:, None] * Vt[:rank], U[:, :rank] * root


class PiSSA(ConvolvingLowRank):
    """LoRA started from each weight's largest singular components."""

    alpha: PositiveFloat | None = Field(
        None, description="numerator of the scale s = alpha / r; none: the rank, s = 1", examples=[8]
    )

    category: ClassVar[str] = "reparameterised"
    divides: ClassVar[bool] = True
    dropout: ClassVar[float] = 0.0  # type: ignore[misc]
    default_scale: ClassVar[float] = 1.0
    learning_rates: ClassVar[Mapping[str, float]] = {"": 3e-4}
    offset: ClassVar[bool] = True
    full_rank_at_most: ClassVar[bool] = True
    quantised: ClassVar[bool] = False
    conformance: ClassVar[dict[str, object]] = {"rank": 3}

    def initial(self, start: Start) -> tuple[Tensor, Tensor]:
        return principal(start.site.matrix().detach().float(), start.rank, start.scale)
