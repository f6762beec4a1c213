"""VeRA: vector-based random matrix adaptation (Kopiczko et al. 2023, arXiv:2310.11454).

One pair of random matrices, frozen and shared by all layers, and two vectors a layer that train:

    y = x (W + diag(b) B diag(d) A)^T      A [r, in], B [out, r]: the first columns and rows of the shared pair

b [out] starts at zero and d [r] at `d_initial`, so that the model starts as the base. The pair is as large as the
largest targeted layer, uniform with Kaiming's bound, and drawn from `projection_prng_key` as PEFT draws it: no file of
a run holds it. PEFT's adapter does, since PEFT asks for it unless told otherwise.

Defaults: rank 256 and d_initial 0.1, PEFT's and the paper's; targets are all linear layers (the paper: query and
value). The learning rate is ten times LoRA's, as the paper's rates are.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from tunewright.contract.method import Setup, State
from tunewright.models.deltas import Delta, SharedProjections
from tunewright.models.sites import Site
from tunewright.pieces.on_layers import OnLayers


class VeRA(OnLayers):
    """Two vectors a layer, between random matrices that all layers share."""

    rank: PositiveInt = Field(256, description="rank r of the shared matrices", examples=[8])
    d_initial: PositiveFloat = Field(0.1, description="what every entry of d starts at", examples=[1.0])
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the input's entries set to zero while training", examples=[0.3]
    )
    projection_prng_key: NonNegativeInt = Field(0, description="seed of the shared matrices", examples=[1])

    category: ClassVar[str] = "reparameterised"
    divides: ClassVar[bool] = True
    also: ClassVar[Mapping[str, str]] = {"targets": "target_modules", "r": "rank", "vera_dropout": "dropout"}
    learning_rates: ClassVar[Mapping[str, float]] = {"": 8e-3}
    form: ClassVar[type[Delta]] = SharedProjections

    def setup(self, run: Setup) -> State:
        state = super().setup(run)
        sites = self.sites(run.structure)
        state.data["widths"] = [max(s.in_features for s in sites), max(s.out_features for s in sites)]
        return state

    def start(self, site: Site, state: State, rng: random.Random) -> SharedProjections:
        inputs, outputs = state.data["widths"]
        d = torch.full((self.rank,), self.d_initial)
        return SharedProjections(
            torch.zeros(site.out_features),
            d,
            site.in_features,
            seed=self.projection_prng_key,
            widths=(inputs, outputs),
            dropout=self.dropout,
        )
