"""EVA: explained variance adaptation (Paischer et al. 2024, arXiv:2410.07170; papers: eva).

LoRA whose A starts at the directions in which the layer's own inputs vary most, and whose ranks go where these explain
most. Before training, each targeted layer's inputs X [tokens, in] on the training rows are decomposed a batch at a time
(`pieces/incremental_svd.py`): V [k, in] with singular values S, k = rho r. All layers' shares of variance,
S_i^2 / sum of squared deviations, are ranked together and the largest kept, as many as the ranks sum to; with r_l of
them at layer l

    A = V[:r_l] [r_l, in]     (whiten: rows over sqrt(S_i))     B = 0 [out, r_l]     s = alpha / r

so that the model starts as the base. A layer whose directions explain too little gets no change at all. Layers that
read one tensor share a decomposition. A layer is read until the directions that it is to have stand still (cosine of
`tau` or more from one batch to the next), at most `samples` rows.

Setting up holds rho r vectors for each layer and the inputs of one layer at a time, and costs one pass over the rows.
What is saved is a plain LoRA, with a `rank_pattern`.

Defaults: rank 16, alpha 1, rho 2, tau 0.99 and no whitening (the authors' example and PEFT, where the directions of
most variance carry inputs many times those of a random A); 256 rows (ours: they go on until all stands still).
`adjust_scaling_factors` keeps s = alpha / r where the rank is r_l; without it s = alpha / r_l. Peak rate: the
authors' example's.

Raises MethodError for patterns that name no layer and where no layer keeps a direction.
Differs from the paper in: inputs are centred, as in the authors' code and PEFT; rows are not read again and again until
all stands still: what had not is told in the report. A layer has no more candidates than its narrower side. Tokens that
are no target are left out (`use_label_mask`) of causal models alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt

from tunewright.contract.found import Found
from tunewright.contract.method import Need, Needs, State
from tunewright.methods.needs.explained_variance import ExplainedVariance
from tunewright.models.deltas import LowRank
from tunewright.models.sites import Site
from tunewright.pieces.low_rank import PatternedLowRank, Start


class EVA(PatternedLowRank):
    """LoRA along the directions of most variance of each layer's inputs, its ranks shared out by variance explained."""

    alpha: PositiveFloat = Field(1.0, description="numerator of the scale s = alpha / r", examples=[8])
    rho: float = Field(
        2.0, ge=1, description="largest rank of a layer, as a multiple of r; 1: every layer keeps r", examples=[1.0]
    )
    tau: float = Field(
        0.99, ge=0, le=1, description="cosine from one batch to the next at which a direction is settled", examples=[0]
    )
    use_label_mask: bool = Field(True, description="of a causal model read the inputs of tokens alone that are trained")
    whiten: bool = Field(False, description="divide each row of A by the root of its singular value")
    adjust_scaling_factors: bool = Field(
        True, description="keep the scale alpha / r where the rank is another; else alpha over the layer's own rank"
    )
    data: str = Field(
        "train", description="source of the rows: train, keep, or another name of the recipe", examples=["keep"]
    )
    samples: PositiveInt = Field(256, description="rows to read at most", examples=[4])
    tokens: PositiveInt = Field(2048, description="tokens of a step of the decomposition, about", examples=[8])

    category: ClassVar[str] = "reparameterised"
    learning_rates: ClassVar[dict[str, float]] = {"": 5e-4}
    papers: ClassVar[tuple[str, ...]] = ("eva",)
    conformance: ClassVar[dict[str, object]] = {"rank": 2, "samples": 12, "tokens": 32}

    def needs(self) -> Sequence[Need]:
        need = ExplainedVariance(
            source=self.data,
            samples=self.samples,
            tokens=self.tokens,
            target_modules=self.target_modules,
            rank=self.rank,
            rank_pattern=tuple(self.rank_pattern.items()),
            rho=self.rho,
            tau=self.tau,
            answers=self.use_label_mask,
        )
        return (need,)

    def attach(self, site: Site, needs: Needs, state: State, rng: random.Random) -> LowRank | None:
        found, name = needs.explained_variance, site.name
        A = found.get(f"components.{name}") if name in state.data["sites"] else None
        if A is None or not len(A):
            return None
        if self.whiten:
            A = A / found[f"singular.{name}"].sqrt()[:, None]
        shares = found[f"ratio.{name}"].tolist()
        state.data["settled"] = float(found["settled"])
        state.data.setdefault("shares", {})[name] = sum(shares)
        state.data.setdefault("ranks", {})[name] = len(A)
        scale = self.scale_at(site, self.rank_at(site) if self.adjust_scaling_factors else len(A))
        start = Start(site, len(A), scale, needs, state, rng)
        return self.delta(start, A.clone(memory_format=torch.contiguous_format), torch.zeros(site.out_features, len(A)))

    def found(self, state: State) -> Found | None:
        ranks, shares = state.data.get("ranks", {}), state.data.get("shares", {})
        if not ranks:
            return None
        none, settled = len(state.data["sites"]) - len(ranks), state.data["settled"]
        notes = [] if settled == 1 else [f"{1 - settled:.0%} of the layers' directions had not settled: more samples"]
        return Found(
            title="Ranks by explained variance",
            description="Each layer's rank, and the share of the variance of its inputs that its directions explain.",
            values={"layers without a change": none, "share of layers that settled": settled},
            columns=["layer", "rank", "variance explained"],
            rows=[[name, rank, shares[name]] for name, rank in ranks.items()],
            notes=notes,
        )
