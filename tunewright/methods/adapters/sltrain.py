"""SLTrain: sparse plus low-rank weights (Han et al. 2024, arXiv:2406.02214; papers: sltrain).

A weight [out, in] is a low-rank product and values at places that are drawn once at random and never again:

    W = s B A + S     A [r, in] uniform in +-1/sqrt(in)     B [out, r] = 0     S: v [k] at k = sp_ratio in out places

Trained numbers are r (in + out) + k for each layer instead of in out, and so are the optimizer's. The backward pass
makes W anew from its parts, so that nothing of its size is kept for it; its gradient is there one layer at a time.

- `replace`: as in the paper, for a model that begins from nothing: the layer's own weight is zero from the first step
  on and v starts uniform in +-1/sqrt(in). Whatever stands beside the targeted weights (embeddings, norms, biases, head)
  trains too. On a pre-trained base this throws the base away, and is not the default.
- else the sum is a change beside the frozen weight, v = 0: the model starts as the base.

    model: {config: {...}, tokenizer: train}
    methods: [{sltrain: {replace: true}}]

It folds into plain weights; since its rank is whole, it is saved as a change of Tunewright's and not as a PEFT adapter.

Defaults: rank 128, alpha 32 and sp_ratio 0.03 (the authors' for 60M parameters; ranks 256 to 1,024 and alpha 16 to 8
above); peak rate 3e-3 (theirs). Raises MethodError for `target_modules` that name no layer.
Differs from the paper in: places are held in 32 bits (there 64), no 8-bit optimizer and no step layer by layer; the use
beside a frozen weight is ours.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from tunewright.contract.method import Candidates, Choice, State, torch_generator
from tunewright.models.adapted import Adapted
from tunewright.pieces.low_rank import Start
from tunewright.pieces.sparse_low_rank import SparseLowRankMethod, drawn_places


class SLTrain(SparseLowRankMethod):
    """A low-rank product and values at random places, in the place of each weight or beside it."""

    rank: PositiveInt = Field(128, description="rank r of the product", examples=[8])
    alpha: PositiveFloat = Field(32.0, description="numerator of the scale s = alpha / r", examples=[8])
    sp_ratio: float = Field(
        0.03, gt=0, lt=1, description="share of the weight's entries that have a value of their own", examples=[0.2]
    )
    replace: bool = Field(
        False, description="in the place of the weight, which begins at zero: for a model from nothing; else beside it"
    )

    category: ClassVar[str] = "hybrid"
    quantised: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    learning_rates: ClassVar[dict[str, float]] = {"": 3e-3}
    papers: ClassVar[tuple[str, ...]] = ("sltrain",)
    conformance: ClassVar[dict[str, object]] = {"rank": 2, "alpha": 2.0, "replace": True}

    def places(self, start: Start) -> Tensor:
        size = start.site.out_features * start.site.in_features
        return drawn_places(start, max(1, int(self.sp_ratio * size)))

    def values(self, start: Start, count: int) -> Tensor:
        if not self.replace:
            return super().values(start, count)
        bound = start.site.in_features**-0.5
        return torch.empty(count).uniform_(-bound, bound, generator=torch_generator(start.rng))

    def choose(self, candidates: Candidates, state: State) -> Choice:
        beside = set(candidates.adapted.trainable_new())
        if self.replace:
            targeted = {candidates.structure.site(s).weight_name for s in state.data["sites"]}
            beside = set(candidates.base) - targeted
        return Choice((*candidates.deltas, *sorted(beside)))

    def begin_task(self, adapted: Adapted, state: State) -> None:
        if self.replace:
            for name in state.data["sites"]:
                weight = adapted.structure.site(name).weight_name
                adapted.remember(weight)
                adapted.base_parameters()[weight].data.zero_()
