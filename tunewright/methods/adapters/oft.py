"""OFT: orthogonal fine-tuning (Qiu et al. 2023, arXiv:2306.07280; on the input: OFTv2, Qiu et al. 2025,
arXiv:2506.19847).

What enters a targeted layer is turned, block by block, before the frozen weight W [out, in] sees it:

    y = (x R) W^T + c      R [in, in] block-diagonal, blocks [b, b]      R_i = Cayley(Q_i), Q_i skew-symmetric

An orthogonal R keeps the lengths of W's rows and the angles between them. The b (b - 1) / 2 entries of each Q start at
zero, so that the model starts as the base. With `use_cayley_neumann` R is a short series in Q, which needs no inverse
and is orthogonal only near zero; otherwise it is (I - Q)(I + Q)^-1. The change folds: W R^T.

Defaults: blocks of 32, the series of 5 terms, PEFT's; a block size that does not divide a layer's inputs is taken to
the nearest one that does, the smaller of two. At a strength between 0 and 1, R is between I and the trained one.
Differs from PEFT in: no module dropout and no constrained variant (`coft`); linear layers alone.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt

from tunewright.contract.method import State
from tunewright.models.deltas import Delta, Rotation
from tunewright.models.rotation import block_of
from tunewright.models.sites import Site
from tunewright.pieces.on_layers import OnLayers


class OFT(OnLayers):
    """Orthogonal blocks that turn a layer's input."""

    block_size: PositiveInt = Field(
        32,
        description="inputs of a block that are turned together; of a layer that it does not divide, the divisor "
        "nearest to it, as PEFT takes",
        examples=[4],
    )
    block_share: bool = Field(False, description="one block for all places of a layer's input", examples=[True])
    use_cayley_neumann: bool = Field(True, description="a short series in the place of an inverse", examples=[False])
    num_cayley_neumann_terms: int = Field(5, ge=2, description="terms of the series", examples=[2])

    category: ClassVar[str] = "reparameterised"
    divides: ClassVar[bool] = True
    also: ClassVar[Mapping[str, str]] = {"targets": "target_modules", "oft_block_size": "block_size"}
    learning_rates: ClassVar[Mapping[str, float]] = {"": 1e-3}
    form: ClassVar[type[Delta]] = Rotation
    conformance: ClassVar[dict[str, object]] = {"block_size": 8}

    def start(self, site: Site, state: State, rng: random.Random) -> Rotation:
        b = block_of(site.in_features, self.block_size)
        blocks = 1 if self.block_share else site.in_features // b
        terms = self.num_cayley_neumann_terms if self.use_cayley_neumann else None
        return Rotation(torch.zeros(blocks, b * (b - 1) // 2), site.in_features, block_size=b, terms=terms)
