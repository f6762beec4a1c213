"""LoFiT: localised fine-tuning on representations (Yin et al. 2024, arXiv:2406.01563; papers: lofit).

A few attention heads matter for a task; each of them gets one constant vector, added to its output wherever it speaks:

    first    z <- (1 + A) z at every head's output z in R^d; A from N(0, 1e-3) trained for a while with
             loss + l1 sum |A|                                                (the need `head_scales`; then thrown away)
    kept     the K heads of the whole model with the largest ||A||_2
    then     z <- z + v at these, v from N(0, 1e-3) trained                              parameters: K d

z is what enters the attention's output projection W [out, heads d], before it: so the change is a bias, W v, and folds
into the layer's own, or into a new one where it has none (`export` says whether the architecture can hold it). Heads
are query heads, so shared keys and values change nothing. Grouped by the layer, the scores stay in the stage's state.

Defaults: 3 % of the heads (the abstract; the authors' code: 32 of 1,024 for Llama-2-7B, 48 for 13B); l1 5e-4, rate 5e-3
for A (its TruthfulQA set-up; MQuAKE 1e-3, CLUTRR 5e-3 and 5e-4); v trains at the recipe's rate (there: 1e-2).
Raises MethodError for a model without such layers, and for more heads than there are.

Differs from the paper in: A trains for `scale_steps` steps on drawn rows (there: 5 epochs), on the task's own loss
(there: DPO's for TruthfulQA), in evaluation mode.
Source: fc2869/lo-fit, lofit_trainer.py and models/modeling_llama.py.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from tunewright.contract.method import Method, Need, Needs, Setup, State, torch_generator
from tunewright.errors import MethodError
from tunewright.methods.needs.head_scales import HeadScales
from tunewright.models.deltas import InputEdit
from tunewright.models.sites import Site

SHARE = 0.03


def strongest(scales: Mapping[str, Tensor], count: int) -> dict[str, list[int]]:
    """The `count` heads whose A [heads, d] has the largest norm over all sites: {site: heads, rising}.

    Equal ones: the earlier site's, then the lower head.
    """
    norms = [(-float(a.norm()), i, h, n) for i, (n, A) in enumerate(scales.items()) for h, a in enumerate(A)]
    found: dict[str, list[int]] = {}
    for _, _, head, name in sorted(norms)[:count]:
        found[name] = sorted([*found.get(name, []), head])
    return found


class LoFiT(Method):
    """A constant vector at the outputs of the few attention heads that a short training of scales points at."""

    heads: PositiveInt | None = Field(
        None, description="heads that get a vector; none: 3 % of the model's, one at least", examples=[2]
    )
    start: PositiveFloat = Field(1e-3, description="standard deviation of the vectors' start")
    data: str = Field("train", description="source of the rows that point at the heads", examples=["keep"])
    scale_steps: PositiveInt = Field(100, description="steps that the scales train for")
    scale_rows: PositiveInt = Field(8, description="rows per step of the scales")
    scale_rate: PositiveFloat = Field(5e-3, description="learning rate of the scales")
    l1: NonNegativeFloat = Field(
        5e-4, description="weight of the sum of the scales' magnitudes in their loss", examples=[0.1]
    )

    category: ClassVar[str] = "additive"
    identity: ClassVar[bool] = False
    papers: ClassVar[tuple[str, ...]] = ("lofit",)
    conformance: ClassVar[dict[str, object]] = {"heads": 3, "scale_steps": 3, "scale_rows": 3}

    def needs(self) -> Sequence[Need]:
        train = {"steps": self.scale_steps, "rows": self.scale_rows, "rate": self.scale_rate, "l1": self.l1}
        return (HeadScales(source=self.data, **train),)

    def setup(self, run: Setup) -> State:
        total = sum(s.heads for s in run.structure.head_outputs())
        count = self.heads or max(1, round(SHARE * total))
        if count > total:
            raise MethodError(
                f"lofit is asked for {count} heads, and the model has {total} whose output can be changed",
                where="heads",
                remedy=f"write heads: {total} or less" if total else "use another method on this model",
            )
        return State(count=count)

    def attach(self, site: Site, needs: Needs, state: State, rng: random.Random) -> InputEdit | None:
        if site.name not in needs.head_scales:
            return None
        state.set_buffer(f"scores.{site.name}", needs.head_scales[site.name].norm(dim=1))
        heads = strongest(needs.head_scales, state.data["count"]).get(site.name)
        if heads is None:
            return None
        places = torch.cat([site.head_places(h) for h in heads])
        return InputEdit(places, torch.randn(len(places), generator=torch_generator(rng)) * self.start)
