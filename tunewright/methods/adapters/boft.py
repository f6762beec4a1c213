"""BOFT: orthogonal fine-tuning by butterfly factors (Liu et al. 2023, arXiv:2311.06243).

What enters a targeted layer is turned by a product of sparse rotations before the frozen weight W [out, in] sees it,
and each output has a factor:

    y = s * (x R) W^T + c      R = M_m .. M_2 M_1, M_i = P_i blockdiag(Cayley(Q)) P_i^T, blocks [b, b]

With one factor R is OFT's. Each factor more doubles the places that are turned together, at m b^2 numbers a block where
one block of that size would have (2^(m - 1) b)^2. The Q start at zero and s [out] at one, so that the model starts as
the base; s is held as 1 + v with v from zero, so that weight decay draws it to 1. The change folds.

Defaults: blocks of 4 and one factor, PEFT's; targets are all linear layers.
Raises MethodError where b 2^(m - 1) does not divide a layer's inputs, and for odd blocks under more than one factor.
Differs from PEFT in: no dropout of blocks; several factors need no CUDA (there one is taken where its extension is
missing, whatever was asked for).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt

from tunewright.contract.method import State
from tunewright.errors import MethodError
from tunewright.models.deltas import Butterfly, Delta
from tunewright.models.sites import Site, Structure
from tunewright.pieces.on_layers import OnLayers


class BOFT(OnLayers):
    """Butterfly rotations of a layer's input, and a factor for each output."""

    block_size: PositiveInt = Field(4, description="inputs of a block that a factor turns together", examples=[8])
    n_butterfly_factor: PositiveInt = Field(1, description="factors m of the rotation", examples=[2])

    category: ClassVar[str] = "reparameterised"
    divides: ClassVar[bool] = True
    also: ClassVar[Mapping[str, str]] = {
        "targets": "target_modules",
        "boft_block_size": "block_size",
        "boft_n_butterfly_factor": "n_butterfly_factor",
    }
    learning_rates: ClassVar[Mapping[str, float]] = {"": 1e-3}
    form: ClassVar[type[Delta]] = Butterfly

    def sites(self, structure: Structure) -> list[Site]:
        """The targeted layers, whose inputs have to be divisible."""
        together = self.block_size * 2 ** (self.n_butterfly_factor - 1)
        if self.n_butterfly_factor > 1 and self.block_size % 2:
            raise MethodError(
                f"blocks of {self.block_size} cannot be halved, as more than one factor needs",
                where="block_size",
                remedy="write an even number",
            )
        sites = structure.match(self.target_modules)
        for site in sites:
            if site.kind in ("linear", "conv1d") and site.in_features % together:
                raise MethodError(
                    f"'{site.name}' has {site.in_features} inputs, which stretches of {together} do not divide",
                    where="block_size",
                    remedy="write a block size and a number of factors with b 2^(m - 1) dividing them",
                )
        return sites

    def start(self, site: Site, state: State, rng: random.Random) -> Butterfly:
        b = self.block_size
        return Butterfly(
            torch.zeros(self.n_butterfly_factor, site.in_features // b, b, b), torch.zeros(site.out_features)
        )
