"""LoRA: low-rank adaptation (Hu et al. 2021, arXiv:2106.09685); rank-stabilised scale: rsLoRA (Kalajdzievski 2023,
arXiv:2312.03732).

The weight W [out, in] of a targeted layer stays frozen and a product of two thin matrices is added to it:
y = x (W + s B A)^T, A [r, in], B [out, r], s = alpha / r, or alpha / sqrt(r) with `use_rslora`. A starts uniform in
+-1/sqrt(in) and B at zero, so the model starts as the base. Dropout acts on the input of A alone.

Names and meaning of the parameters are PEFT's, whose adapter format the result is saved in.
Differs from the paper in: every linear layer inside the blocks is a target unless told otherwise (the paper took the
attention's query and value), as later practice found better.
"""

from __future__ import annotations

import math
import random
from typing import ClassVar

from pydantic import Field, PositiveFloat, PositiveInt

from tunewright.contract.method import Method, Setup, State, torch_generator
from tunewright.methods.adapters._low_rank import TARGETS, by_pattern, state_of_targets, targeted
from tunewright.models.deltas import LowRank, kaiming_low_rank
from tunewright.models.sites import Site


def scale_of(rank: int, alpha: float, rank_stabilised: bool = False) -> float:
    """s = alpha / r, or alpha / sqrt(r), under which the product's size does not fall with the rank."""
    return alpha / (math.sqrt(rank) if rank_stabilised else rank)


class LoRA(Method):
    """A low-rank change on each targeted layer."""

    rank: PositiveInt = Field(16, description="rank r of the change", examples=[8])
    alpha: PositiveFloat | None = Field(
        None, description="numerator of the scale s = alpha / r; none: twice the rank, s = 2", examples=[8]
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the input's entries set to zero while training", examples=[0.3]
    )
    targets: str | tuple[str, ...] = Field(
        "all-linear", description=TARGETS, examples=[["q_proj", "v_proj"], ["q_proj"]]
    )
    use_rslora: bool = Field(False, description="scale by alpha / sqrt(r) instead of alpha / r", examples=[True])
    rank_pattern: dict[str, PositiveInt] = Field(
        {}, description="ranks of modules that differ: module name or ending -> r", examples=[{"q_proj": 4}]
    )
    alpha_pattern: dict[str, PositiveFloat] = Field(
        {}, description="alphas of modules that differ: module name or ending -> alpha", examples=[{"q_proj": 7.0}]
    )

    conformance: ClassVar[dict[str, object]] = {"rank": 2}

    def setup(self, run: Setup) -> State:
        return state_of_targets(run, self.targets, self.rank_pattern, self.alpha_pattern)

    def attach(self, site: Site, state: State, rng: random.Random) -> LowRank | None:
        if not targeted(state, site):
            return None
        rank = by_pattern(self.rank_pattern, site.name, self.rank)
        alpha = by_pattern(self.alpha_pattern, site.name, float(self.alpha or 2 * self.rank))
        return kaiming_low_rank(
            site, rank, scale_of(rank, alpha, self.use_rslora), torch_generator(rng), dropout=self.dropout
        )
