"""LoRA: low-rank adaptation (Hu et al. 2021, arXiv:2106.09685); rank-stabilised scale: rsLoRA (Kalajdzievski 2023,
arXiv:2312.03732).

The weight W [out, in] of a targeted layer stays frozen and a product of two thin matrices is added to it:
y = x (W + s B A)^T, A [r, in], B [out, r], s = alpha / r, or alpha / sqrt(r) with `use_rslora`. A starts uniform in
+-1/sqrt(in) and B at zero, so the model starts as the base. Dropout acts on the input of A alone.

A convolution's change is of its weight [out, in k k] as a matrix: A is a convolution of r channels with the layer's
own kernel, B one over a point. With `target_modules: all` every convolution inside the blocks has one.

Names and meaning of the parameters are PEFT's, whose adapter format the result is saved in.
Differs from the paper in: every linear layer inside the blocks is a target unless told otherwise (the paper took the
attention's query and value), as later practice found better.
"""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field

from tunewright.models.sites import Site
from tunewright.pieces.convolving import ConvolvingLowRank


def scale_of(rank: int, alpha: float, rank_stabilised: bool = False) -> float:
    """s = alpha / r, or alpha / sqrt(r), under which the product's size does not fall with the rank."""
    return alpha / (math.sqrt(rank) if rank_stabilised else rank)


class LoRA(ConvolvingLowRank):
    """A low-rank change on each targeted layer."""

    use_rslora: bool = Field(False, description="scale by alpha / sqrt(r) instead of alpha / r", examples=[True])

    category: ClassVar[str] = "reparameterised"
    divides: ClassVar[bool] = True
    conformance: ClassVar[dict[str, object]] = {"rank": 2}

    def scale_at(self, site: Site, rank: int) -> float:
        return scale_of(rank, self.alpha_at(site), self.use_rslora)
