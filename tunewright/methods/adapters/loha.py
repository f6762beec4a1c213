"""LoHa: a change that is the entry-wise product of two low-rank ones (FedPara, Hyeon-Woo et al. 2021, arXiv:2108.06098;
for adapters: LyCORIS, Yeh et al. 2023, arXiv:2309.14859).

    y = x (W + s (A1 B1) * (A2 B2))^T      A1, A2 [out, r], B1, B2 [r, in], s = alpha / r

With 2 r (out + in) numbers the change has a rank of up to r^2, where LoRA's with as many has 2 r. B2 starts at zero and
the others uniform in +-1/sqrt(columns) (Kaiming with a = sqrt 5), as in PEFT, so that the model starts as the base. The
product is made anew in each forward pass and multiplied as a whole matrix: a step costs more than LoRA's.

Defaults: rank 8 and alpha 8, PEFT's; targets are all linear layers.
Differs from PEFT in: no rank dropout and no module dropout; linear layers alone, GPT-2's transposed ones too.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt

from tunewright.contract.method import State, torch_generator
from tunewright.models.deltas import Delta, Hadamard
from tunewright.models.sites import Site
from tunewright.pieces.on_layers import OnLayers, uniform


class LoHa(OnLayers):
    """The entry-wise product of two low-rank changes on each targeted layer."""

    rank: PositiveInt = Field(8, description="rank r of each of the two products", examples=[4])
    alpha: PositiveFloat = Field(8.0, description="numerator of the scale s = alpha / r", examples=[16.0])

    category: ClassVar[str] = "reparameterised"
    divides: ClassVar[bool] = True
    also: ClassVar[Mapping[str, str]] = {"targets": "target_modules", "r": "rank"}
    learning_rates: ClassVar[Mapping[str, float]] = {"": 2e-3}
    form: ClassVar[type[Delta]] = Hadamard
    conformance: ClassVar[dict[str, object]] = {"rank": 3}

    def start(self, site: Site, state: State, rng: random.Random) -> Hadamard:
        out, inputs, r, g = site.out_features, site.in_features, self.rank, torch_generator(rng)
        a1, b1, a2 = uniform(out, r, g), uniform(r, inputs, g), uniform(out, r, g)
        return Hadamard(a1, b1, a2, torch.zeros(r, inputs), self.alpha / r)
