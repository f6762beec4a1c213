"""FLoRA: a low-rank change of a weight with any number of axes, in Tucker's form (Si et al. 2024, arXiv:2405.14739;
papers: flora-tucker). Not the FLoRA that compresses gradients.

The change of a weight is a small core, multiplied along each of the weight's axes by a thin matrix; the weight stays
frozen:

    linear        D = s (U_in G U_out^T)^T                         G [r_in, r_out], U_i [d_i, r_i]
    convolution   D = s G x_1 U_in x_2 U_out x_3 U_h x_4 U_w       G [r_in, r_out, r_h, r_w], D [out, in, h, w]

so that a convolution's kernel keeps its axes, where LoRA would flatten them: prod r_i + sum d_i r_i numbers. Flattened
along axis i the change has a rank of r_i at most. G starts at zero and each U_i normal with variance 1 / (2 r_i)
(Kaiming with a = sqrt 3 over r_i), so that the model starts as the base and G alone has a gradient in the first step.
The change is folded, and afterwards nothing is left to run.

`target_modules: all` takes the linear layers and convolutions inside the blocks; layers outside are taken where they
are named. An axis that is shorter than its rank takes its length for a rank: more would be numbers without a use.
With groups a convolution's weight reads in / groups channels, and so does U_in.

Defaults: 8 along channels, 2 along a kernel's axes and s 1 (the signature of the authors' layer, and its example's
kernel ranks; that example, a ConvNeXt, has 16 along channels, s 4 and dropout 0.01). s is not divided by a rank, so
that a change's size grows with its ranks: another rank wants another s or rate. The peak rate is LoRA's (ours).

Raises MethodError for a target that is no linear layer or convolution, for a convolution that pads with anything but
zeros, and where there is nothing to change.
Differs from the paper in: convolutions with groups work (there U_in has all input channels, which does not fit); the
whole change is not made in the forward pass but where there are groups; no embeddings and no 3-d convolutions.
Source: SJTU-DeepVisionLab/FLoRA, flora/layers.py and example.py (read, not run). Its code for GLUE was not seen.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt

from tunewright.contract.method import Setup, State, torch_generator
from tunewright.errors import MethodError
from tunewright.models.deltas import Delta, Tucker
from tunewright.models.sites import Site, Structure
from tunewright.models.tucker import axes_of, geometry_of
from tunewright.pieces.on_layers import OnLayers
from tunewright.pieces.target_modules import with_convolutions


class FLoRATucker(OnLayers):
    """A change in Tucker's form on each targeted linear layer and convolution."""

    mode_ranks: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = Field(
        (8, 8, 2, 2),
        description="r along input channels, output channels, and the height and width of a kernel; a linear layer has "
        "the first two",
        examples=[[4, 2, 1, 1]],
    )
    scale: PositiveFloat = Field(1.0, description="s, by which the change is multiplied", examples=[4.0])
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the input's entries set to zero while training", examples=[0.3]
    )
    target_modules: str | tuple[str, ...] = Field(
        "all",
        description="which layers: all (linear ones and convolutions inside the blocks), all-linear, or module names "
        "or endings of them",
        examples=[["q_proj", "v_proj"], ["q_proj"]],
    )

    category: ClassVar[str] = "reparameterised"
    divides: ClassVar[bool] = True
    also: ClassVar[Mapping[str, str]] = {"targets": "target_modules"}
    learning_rates: ClassVar[Mapping[str, float]] = {"": 8e-4}
    form: ClassVar[type[Delta]] = Tucker
    papers: ClassVar[tuple[str, ...]] = ("flora-tucker",)
    conformance: ClassVar[dict[str, object]] = {"mode_ranks": (3, 3, 2, 2)}

    def sites(self, structure: Structure) -> list[Site]:
        """Linear layers and convolutions inside the blocks, or what is named."""
        if self.target_modules != "all":
            return structure.match(self.target_modules)
        found = with_convolutions(structure)
        if not found:
            raise MethodError(
                "flora-tucker found no linear layer and no convolution inside the model's blocks",
                where="target_modules",
                remedy="name layers, or use a method that changes others",
            )
        return found

    def setup(self, run: Setup) -> State:
        state = super().setup(run)
        for name in state.data["sites"]:
            geometry_of(run.structure.site(name))  # refuses what it cannot follow, before anything trains
        return state

    def start(self, site: Site, state: State, rng: random.Random) -> Tucker:
        axes, generator = axes_of(site), torch_generator(rng)
        ranks = [min(r, d) for r, d in zip(self.mode_ranks, axes, strict=False)]
        factors = [torch.randn(d, r, generator=generator) * (2 * r) ** -0.5 for d, r in zip(axes, ranks, strict=True)]
        return Tucker(torch.zeros(ranks), factors, self.scale, dropout=self.dropout, geometry=geometry_of(site))
