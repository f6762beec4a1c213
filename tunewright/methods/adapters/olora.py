"""OLoRA: LoRA that starts from an orthonormal basis of a weight's columns (Büyükakyüz 2024, arXiv:2406.01775).

With the QR decomposition W = Q R [out, in], its first r columns and rows train and the rest stays frozen:

    B = Q[:, :r] [out, r], orthonormal columns     A = R[:r] [r, in]     y = x (W + s (B A - B0 A0))^T     s = alpha / r

B0, A0 are the start, written as the offset of the delta: the base is never edited, and the result is saved as plain
LoRA of rank 2r. Rank 16 (ours), alpha the rank (s = 1, as PEFT's defaults give), no dropout.

Raises MethodError for a rank above a layer's narrower side, and for layers in 4 bits.
Differs from PEFT in: a transposed layer (GPT-2's) is decomposed as [out, in], as all others are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from tunewright.pieces.convolving import ConvolvingLowRank
from tunewright.pieces.low_rank import Start


class OLoRA(ConvolvingLowRank):
    """LoRA started from the QR decomposition of each weight."""

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
        Q, R = torch.linalg.qr(start.site.matrix().detach().float())
        return R[: start.rank], Q[:, : start.rank]
