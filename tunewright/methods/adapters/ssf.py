"""SSF: scale and shift features (Lian et al. 2022, arXiv:2210.08823; papers: ssf).

Every weight stays frozen; behind each operation (linear layer, convolution, norm) every channel c of the output y is
scaled and shifted,

    y_c <- g_c y_c + b_c,      g, b in R^C               parameters: 2 C for each layer

which is the same as scaling the rows of the layer's weight and its bias by g and adding b to the bias: afterwards the
change is folded and nothing is left to run. C is the last axis, or axis 1 behind a convolution.

Start: g from N(1, std), b from N(0, std) with std 0.02 (the authors' code), so that the model does not start exactly
as the base; `std: 0` does. A layer that has no bias gets a new one when b is folded into it; with `new_biases: false`
such layers are scaled alone, so that the tuned model keeps the base's architecture. A norm that could hold no bias
(RMS norms) is always scaled alone, and one whose weight is no plain factor (Gemma's 1 + w) is left as it is. The
classifier's head is no target; a head that was drawn anew trains beside, as for every method here.

Defaults: std 0.02; every operation. A rate of 3e-3 lies between the authors' 1e-3 and 1e-2 (AdamW).
Raises MethodError where nothing can be scaled, and for a target that names no module.

Differs from the paper in: embeddings' sums are not scaled (there: behind the patch projection, which is a convolution
here, too); residual branches are scaled at the layers inside them; weight decay acts on g and b where the recipe sets
one (there: never on vectors); no moving average of the weights.
Source: dongzelian/SSF, models/vision_transformer.py and models/convnext.py.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat

from tunewright.contract.method import Method, Setup, State, torch_generator
from tunewright.errors import MethodError
from tunewright.models.scale_shift import ScaleShift, channel_axis
from tunewright.models.sites import Site, Structure


def operations(structure: Structure) -> list[Site]:
    """Layers behind which the paper scales: linear ones inside blocks, all convolutions and norms."""
    linear = {s.name for s in structure.linear_sites()}
    return [s for s in structure.sites if s.name in linear or s.kind in ("conv", "norm")]


class SSF(Method):
    """A scale and a shift of each channel behind every operation."""

    target_modules: str | tuple[str, ...] = Field(
        "all",
        description="which layers: all (linear ones in blocks, convolutions, norms), or names or endings of names",
        examples=[["o_proj", "down_proj", "norm"]],
    )
    std: NonNegativeFloat = Field(
        0.02, description="standard deviation of the start, around 1 for scales and 0 for shifts", examples=[0.0]
    )
    new_biases: bool = Field(True, description="shift layers that have no bias, too: folding gives them a new one")

    category: ClassVar[str] = "additive"
    identity: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 3e-3}
    papers: ClassVar[tuple[str, ...]] = ("ssf",)

    def setup(self, run: Setup) -> State:
        found = self._targets(run.structure)
        axes = {s.name: axis for s in found if (axis := channel_axis(s)) is not None}
        if not axes:
            raise MethodError(
                "ssf found no layer whose output it could scale",
                where="target_modules",
                remedy="leave target_modules out, or name linear layers, convolutions or norms",
            )
        return State(axes=axes)

    def _targets(self, structure: Structure) -> Sequence[Site]:
        if self.target_modules == "all":
            return operations(structure)
        named = structure.match(self.target_modules)
        if odd := [s for s in named if channel_axis(s) is None]:
            raise MethodError(
                f"ssf cannot scale the output of '{odd[0].name}' ({odd[0].kind})",
                where="target_modules",
                remedy="name linear layers, convolutions or norms whose weight is a plain factor",
            )
        return named

    def attach(self, site: Site, state: State, rng: random.Random) -> ScaleShift | None:
        axis = state.data["axes"].get(site.name)
        if axis is None:
            return None
        drawn = torch.randn(2, site.out_features, generator=torch_generator(rng)) * self.std
        has_bias = getattr(site.module, "bias", None) is not None
        shifted = has_bias or (self.new_biases and site.kind != "norm")
        return ScaleShift(1.0 + drawn[0], drawn[1].clone() if shifted else None, axis)
