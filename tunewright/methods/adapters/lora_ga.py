"""LoRA-GA: low-rank adaptation with gradient approximation (Wang, Yu and Li 2024, arXiv:2407.05000; papers: lora-ga).

LoRA that starts where its first step moves the weight as full fine-tuning would. With G [out, in] the gradient of the
loss in the weight, on a few rows before training, and G = U S V^T:

    A = c V[:r]^T [r, in]     B = c U[:, r:2r] [out, r]     c = out^1/4 / gamma^1/2     s = alpha / sqrt(r)

and the frozen weight becomes W - s B A, written as the offset of the change, so that the model starts as the base. A
step of plain descent then moves the product by -s (G A^T A + B B^T G) = -s c^2 G_2r: G's best approximation of rank 2r.
c makes what the change adds of one size for any width and rank ("stable").

`direction`: which singular vectors A and B have of the first 2r: ArB2r (A the first r, B the next), A2rBr (the other
way), ArBr (in turns, B the first), random (drawn, none for both). `scale`: stable; unit (c = 1); gd_scale (both over
s); weight_svd (both times the mean root of W's first r singular values over s).

Setting up reads the `samples` six times and holds, beside one layer's gradient, 4r vectors for each side of each layer
(`needs/gradient_directions.py`); the authors keep every layer's whole gradient. What is saved is a plain LoRA of rank
2r, which holds the offset too.

Defaults: rank 8, alpha 16, the rank-stabilised scale and gamma 16 (the authors' package); 32 rows (ours, between their
8 and 128). The rate is near full fine-tuning's, since a step of the factors moves the product so far (the authors'
advice): ours is LoRA's, 8e-4, over how much larger s c is at width 1,024.

Raises MethodError for a rank above half of a layer's narrower side, a quantised base, and a layer that no loss reaches.
Differs from the paper in: the gradient is taken without dropout; the singular vectors come from products with G, by two
turns of subspace iteration (theirs: four, on G itself). PEFT's `lora_ga` is another: it multiplies B by the singular
values and scales B alone, so that a first step is no longer G's best approximation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from tunewright.contract.method import Need, torch_generator
from tunewright.errors import MethodError
from tunewright.methods.needs.gradient_directions import GradientDirections
from tunewright.models.sites import Site
from tunewright.pieces.low_rank import LowRankMethod, Start
from tunewright.pieces.randomised_svd import leading

Direction = Literal["ArB2r", "A2rBr", "ArBr", "random"]


def parts(U: Tensor, Vt: Tensor, r: int, direction: Direction, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(A [r, in], B [out, r]) of singular vectors U [out, 2r] and Vt [2r, in]: no two of one place."""
    if direction == "random":
        order = torch.randperm(2 * r, generator=generator)
        of_A, of_B = order[:r], order[r:]
    elif direction == "ArBr":
        of_A, of_B = torch.arange(1, 2 * r, 2), torch.arange(0, 2 * r, 2)
    else:
        of_A, of_B = torch.arange(r), torch.arange(r, 2 * r)
        if direction == "A2rBr":
            of_A, of_B = of_B, of_A
    return Vt[of_A.to(Vt.device)], U[:, of_B.to(U.device)]


class LoRAGA(LowRankMethod):
    """LoRA that starts from the singular vectors of the loss's own gradient."""

    rank: PositiveInt = Field(8, description="rank r, at most half of every layer's narrower side", examples=[4])
    alpha: PositiveFloat = Field(16.0, description="numerator of the scale", examples=[8])
    use_rslora: bool = Field(True, description="scale by alpha / sqrt(r) instead of alpha / r", examples=[False])
    direction: Direction = Field("ArB2r", description="which singular vectors A and B have", examples=["A2rBr"])
    scale: Literal["stable", "weight_svd", "gd_scale", "unit"] = Field(
        "stable", description="how large A and B start", examples=["unit"]
    )
    stable_gamma: PositiveFloat = Field(16.0, description="gamma of the stable scale: smaller starts larger")
    data: str = Field(
        "train", description="source of the rows: train, keep, or another name of the recipe", examples=["keep"]
    )
    samples: PositiveInt = Field(32, description="rows whose gradient is taken", examples=[4])

    category: ClassVar[str] = "reparameterised"
    offset: ClassVar[bool] = True
    quantised: ClassVar[bool] = False
    learning_rates: ClassVar[dict[str, float]] = {"": 1e-4}
    papers: ClassVar[tuple[str, ...]] = ("lora-ga",)
    conformance: ClassVar[dict[str, object]] = {"rank": 2, "samples": 8}

    def needs(self) -> Sequence[Need]:
        need = GradientDirections(
            source=self.data, samples=self.samples, rank=2 * self.rank, target_modules=self.target_modules
        )
        return (need,)

    def scale_at(self, site: Site, rank: int) -> float:
        return self.alpha_at(site) / (rank**0.5 if self.use_rslora else rank)

    def _check_layer(self, site: Site) -> None:
        super()._check_layer(site)
        narrow = min(site.in_features, site.out_features)
        if 2 * self.rank > narrow:
            raise MethodError(
                f"lora-ga needs 2r = {2 * self.rank} singular vectors, and '{site.name}' has {narrow}",
                where="rank",
                remedy=f"write rank: {narrow // 2} or less",
            )

    def initial(self, start: Start) -> tuple[Tensor, Tensor]:
        found, site = start.needs.gradient_directions, start.site
        if f"left.{site.name}" not in found:
            raise MethodError(
                f"no loss reached '{site.name}' in {self.samples} rows",
                where="target_modules",
                remedy="leave it out of target_modules, or take more samples",
            )
        U, Vt = found[f"left.{site.name}"], found[f"right.{site.name}"]
        A, B = parts(U, Vt, start.rank, self.direction, torch_generator(start.rng))
        c = self._size(start)
        return c * A, c * B

    def _size(self, start: Start) -> float:
        if self.scale == "stable":
            return float(start.site.out_features**0.25 / self.stable_gamma**0.5)
        if self.scale == "gd_scale":
            return 1 / start.scale
        if self.scale == "weight_svd":
            _, S, _ = leading(start.site.matrix().detach().float(), start.rank)
            return float((S / start.scale).sqrt().mean())
        return 1.0
