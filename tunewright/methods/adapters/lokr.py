"""LoKr: a change that is a Kronecker product (KronA, Edalati et al. 2022, arXiv:2212.10650; for adapters: LyCORIS, Yeh
et al. 2023, arXiv:2309.14859).

    y = x (W + s C (x) D)^T      C [l, m], D [k, n], l k = out, m n = in, s = alpha / r

D is a product of two of rank r, D = Da Db, where r is below half of its longer side, and whole otherwise; so is C with
`decompose_both`. The sides are split near their square root, or by `decompose_factor`. C (its first factor, where it
is a product) starts at zero and all others uniform in +-1/sqrt(columns), as in PEFT, so that the model starts as the
base. The product itself is never made: the input is a matrix [m, n], and C X D^T is two small products.

Defaults: rank 8 and alpha 8, PEFT's; targets are all linear layers.
Differs from PEFT in: no rank dropout and no module dropout; linear layers alone, GPT-2's transposed ones too.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from tunewright.contract.method import State, torch_generator
from tunewright.models.deltas import Delta, Kronecker
from tunewright.models.sites import Site
from tunewright.pieces.on_layers import OnLayers, uniform


def split(size: int, factor: int | None = None) -> tuple[int, int]:
    """(smaller, larger) divisors of `size` nearest to its square root, the smaller at most `factor`; a factor that
    divides is the first of the two itself.
    """
    if factor is not None and size % factor == 0:
        return factor, size // factor
    most = size if factor is None else factor
    small = max(d for d in range(1, int(size**0.5) + 1) if size % d == 0 and (d <= most or d == 1))
    return small, size // small


class LoKr(OnLayers):
    """A Kronecker product of two small matrices on each targeted layer."""

    rank: PositiveInt = Field(8, description="rank r of a factor that is a product", examples=[2])
    alpha: PositiveFloat = Field(8.0, description="numerator of the scale s = alpha / r", examples=[16.0])
    decompose_both: bool = Field(
        False, description="make C a product too, where its sides are above 2 r", examples=[True]
    )
    decompose_factor: PositiveInt | None = Field(
        None, description="what sides are divided by; none: near their square root", examples=[2]
    )

    category: ClassVar[str] = "reparameterised"
    divides: ClassVar[bool] = True
    also: ClassVar[Mapping[str, str]] = {"targets": "target_modules", "r": "rank"}
    learning_rates: ClassVar[Mapping[str, float]] = {"": 2e-3}
    form: ClassVar[type[Delta]] = Kronecker
    conformance: ClassVar[dict[str, object]] = {"rank": 1, "alpha": 1.0}

    def start(self, site: Site, state: State, rng: random.Random) -> Kronecker:
        (rows, k), (m, n) = (
            split(site.out_features, self.decompose_factor),
            split(site.in_features, self.decompose_factor),
        )
        g = torch_generator(rng)
        C = self._factor(rows, m, self.decompose_both, g, zero=True)
        return Kronecker(
            C,
            self._factor(k, n, True, g),
            self.alpha / self.rank,
            rank=self.rank,
            split=self.decompose_factor,
            both=self.decompose_both,
        )

    def _factor(
        self, rows: int, columns: int, decompose: bool, g: torch.Generator, zero: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        product = decompose and self.rank < max(rows, columns) / 2
        first = columns if not product else self.rank
        left = torch.zeros(rows, first) if zero else uniform(rows, first, g)
        return (left, uniform(self.rank, columns, g)) if product else left
