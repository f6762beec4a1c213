"""Bayesian-LoRA: ranks and bits of low-rank changes, learnt by gates (Meo et al. 2024, arXiv:2406.13046; papers:
bayesian-lora).

    y = x W^T + s x (Q(B) diag(Q(e) p) Q(A))^T     A [r, in], B [out, r] ~ N(0, 0.02^2), e [r] ~ N(0, 1), s = alpha / r

Q rounds numbers to 2 bits and, as far as gates are open, to 4, 8, 16 and 32 (`models/nested_bits.py`); p are gates of
the rank-one pieces, the first always kept and each other only where all before it are. All gates are drawn anew in
every step while they train, with a prior that shuts them: beside the loss,

    lambda sum over layers of (sum over A, B, e of sum_b prod_{b' <= b} q_b' + sum_i prod_{i' <= i} q_i')

is minimised, q = sigmoid(phi + 1.6) the probability that a gate is not 0. When the stage ends a gate is open where
its phi is above -0.93, and what is saved is a plain LoRA of numbers on their grids. The report says how many bits the
change takes.

It begins a little way off the base, since B A is not zero.

Defaults: rank 8, alpha twice the rank (ours); lambda 1e-3, phi 2 of bits and 6 of pieces, gates and ranges at a rate of
1e-2 (what the co-author's code has in effect, or in its config). Raises MethodError for `target_modules` that name no
layer.
Differs from the paper in: the change alone is rounded, not the weight beside it nor what flows between them, so that
there are fewer bits to hold and no fewer operations; the prior counts gates and not bits (as the code in effect);
ranges train; pieces' gates are not rounded while they train.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from tunewright.contract.found import Found
from tunewright.contract.method import Plan, State, torch_generator
from tunewright.models.adapted import Adapted
from tunewright.models.delta_names import is_delta
from tunewright.models.nested_bits import BITS, SHIFT, NestedBits, opened
from tunewright.pieces.low_rank import LowRankMethod, Start

NAME = "bayesian-lora"
STD = 0.02
GATED = ("bits", "pieces", "ranges")


def expected(phi: Tensor) -> Tensor:
    """How many gates are expected to be open, of nested ones along the last dimension: each needs those before it."""
    return torch.sigmoid(phi + SHIFT).cumprod(-1).sum()


def _own(adapted: Adapted) -> dict[str, NestedBits]:
    named = {site: d.get(NAME) for site, d in adapted.deltas().items()}
    return {site: d for site, d in named.items() if isinstance(d, NestedBits)}


class BayesianLoRA(LowRankMethod):
    """A low-rank change that learns how many bits and which rank it needs."""

    rank: PositiveInt = Field(8, description="rank r at first", examples=[4])
    prior: NonNegativeFloat = Field(
        1e-3, description="lambda, how strongly gates are shut: weight of their expected number", examples=[1.0]
    )
    bit_gates: float = Field(2.0, description="phi of the bits' gates at first", examples=[-2.0])
    rank_gates: float = Field(6.0, description="phi of the pieces' gates at first", examples=[-2.0])
    gate_rate: PositiveFloat = Field(1e-2, description="learning rate of gates and ranges", examples=[0.1])

    category: ClassVar[str] = "reparameterised"
    dropout: ClassVar[float] = 0.0  # type: ignore[misc]
    identity: ClassVar[bool] = False
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"rank": 3}

    def initial(self, start: Start) -> tuple[Tensor, Tensor]:
        g, site = torch_generator(start.rng), start.site
        A = STD * torch.randn(start.rank, site.in_features, generator=g)
        return A, STD * torch.randn(site.out_features, start.rank, generator=g)

    def delta(self, start: Start, A: Tensor, B: Tensor) -> NestedBits:
        factor = torch.randn(start.rank, generator=torch_generator(start.rng))
        bits = torch.full((3, len(BITS) - 1), self.bit_gates)
        return NestedBits(A, B, factor, start.scale, bits, torch.full((start.rank - 1,), self.rank_gates))

    def penalty(self, weights: Mapping[str, Any]) -> Tensor:
        own = [t.deltas[NAME] for t in weights.values() if NAME in t.deltas]
        return self.prior * sum((expected(d.bits) + expected(d.pieces) for d in own), torch.zeros(()))

    def rates(self, parameters: Mapping[str, Tensor], plan: Plan) -> dict[str, float]:
        gated = [n for n in parameters if is_delta(n) and f".delta.{NAME}." in n and n.endswith(GATED)]
        return dict.fromkeys(gated, self.gate_rate / plan.learning_rate)

    def begin_task(self, adapted: Adapted, state: State) -> None:
        self.after_step(adapted, state)

    def after_step(self, adapted: Adapted, state: State) -> None:
        generator = torch_generator(state.rng)
        for change in _own(adapted).values():
            change.draw(generator)

    def end_task(self, adapted: Adapted, state: State) -> None:
        own = _own(adapted)
        state.data["bits"] = {site: d.bits_of() for site, d in own.items()}
        state.data["held"] = {site: int(d.kept(opened(d.pieces.detach())).sum()) for site, d in own.items()}

    def found(self, state: State) -> Found | None:
        told = state.data.get("bits")
        if not told:
            return None
        bits, numbers = (sum(v[i] for v in told.values()) for i in (0, 1))
        return Found(
            title="Bits of the change",
            description="Bits that the changes' numbers take as their gates stand, over all numbers that they began "
            "with (in 32 bits each), and how many rank-one pieces of each layer are left.",
            values={"bits a number": bits / numbers, "bytes": bits / 8},
            columns=["layer", "bits a number", "rank"],
            rows=[[site, v[0] / v[1], state.data["held"][site]] for site, v in told.items()],
        )
