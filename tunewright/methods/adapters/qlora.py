"""QLoRA: low-rank adapters on a base held in 4 bits (Dettmers et al. 2023, arXiv:2305.14314).

Before training every linear layer inside the blocks is put into NF4 (`models/nf4.py`: our own storage in plain torch;
blocks of 64, scales in 8 bits with double quantisation) and stays frozen. Each targeted layer gets a low-rank change, y
= x W4^T + s x A^T B^T, A uniform in +-1/sqrt(in), B zero, s = alpha / r. Gradients pass through W4, which is made whole
again for each product and never kept.

The base that everything is measured against is the one before quantisation: the start is not the base, and drift
includes what quantisation did. Folding makes a matrix whole again, at the values of its codes, and says so. The adapter
is saved in PEFT's format: load it on the same model in 4 bits (NF4) to get what was trained. Differs from the paper in:
second-level scales are linear 8-bit numbers (there: 8-bit floats), no paged optimizer.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from tunewright.models.nf4 import quantise_sites
from tunewright.models.sites import discover
from tunewright.pieces.low_rank import LowRankMethod


class QLoRA(LowRankMethod):
    """A low-rank change on each targeted layer of a 4-bit base."""

    rank: PositiveInt = Field(64, description="rank r of the change", examples=[8])
    alpha: PositiveFloat = Field(16, description="numerator of the scale s = alpha / r", examples=[8])
    double_quantisation: bool = Field(
        True, description="hold the scales of blocks in 8 bits too: 0.516 bytes a weight instead of 0.5625"
    )

    category: ClassVar[str] = "reparameterised"
    identity: ClassVar[bool] = False
    quantises: ClassVar[bool] = True
    conformance: ClassVar[dict[str, object]] = {"rank": 2}

    def prepare(self, model: nn.Module) -> None:
        quantise_sites(model, discover(model).linear_sites(), self.double_quantisation)
