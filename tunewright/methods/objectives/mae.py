"""MAE: a ViT is shown a quarter of a picture's patches, and the rest is made of what it says of them (He et al. 2021,
arXiv:2111.06377).

Of one view of each picture, cut into P patches, V = (1 - share) P drawn ones go through the model, each with its
position, and nothing stands in the places of the others. A small decoder reads the model's states at the V, a learnt
token at each hidden place, and where each is; it gives each patch's pixels. With x_p the pixels of a patch, brought to
mean 0 and variance 1,

    loss = mean over hidden patches p of  mean over pixels of (said_p - x_p)^2               a picture

The decoder trains with the model and is dropped afterwards. Works on models whose class reads tokens one beside the
other and has a class token: ViT, DeiT, DINOv2, ViTMAE; Swin and models of convolutions are refused by name.

Defaults: share 0.75 and pixels brought to one scale a patch (figure 5, table 1d); a decoder of one block as wide as the
model (table 1a: one block is enough where the model is then fine-tuned).
Differs from the paper in: the decoder's width; light and colours of the picture are changed, too, unless `data.views`
says otherwise; AdamW without layer-wise rates.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Setup, State
from tunewright.errors import MethodError
from tunewright.pieces.patches import PatchDecoder, normalised, patches
from tunewright.pieces.seeded import seeded_start
from tunewright.tasks._embedded import patch_size


class MAE(Method):
    """Make hidden patches of a picture of those that are shown, behind a decoder that is dropped afterwards."""

    share: float = Field(0.75, gt=0, lt=1, description="share of the patches that are hidden", examples=[0.5])
    depth: PositiveInt = Field(1, description="blocks of the decoder", examples=[2])
    width: PositiveInt | None = Field(
        None, multiple_of=4, description="width of the decoder, a multiple of 4; none: the model's", examples=[16]
    )
    heads: PositiveInt = Field(4, description="attention heads of the decoder", examples=[2])
    weight: PositiveFloat = Field(1.0, description="weight of this objective in the sum", examples=[0.5])

    couples: ClassVar[Literal["token", "row", "batch"]] = "row"
    tasks: ClassVar[tuple[str, ...] | None] = ("image-feature-extraction",)

    def setup(self, run: Setup) -> State:
        model: Any = run.adapted.model
        side, own, channels = patch_size(model), int(model.config.hidden_size), int(model.config.num_channels)
        width = self.width or own
        if width % self.heads or width % 4:
            raise MethodError(
                f"a decoder of width {width} has no {self.heads} heads of one size",
                where="mae.heads",
                remedy="write a width that is a multiple of 4 and of the heads",
            )
        state: Any = State(patch=side)
        with seeded_start(run.rng):
            state.decoder = PatchDecoder(own, width, side * side * channels, self.heads, self.depth)
        return state

    def batch(self, batch: Batch, state: State, row_rng: Callable[[int], random.Random]) -> Batch:
        pixels = batch.inputs["pixel_values"][::2]
        side = state.data["patch"]
        count = (pixels.shape[2] // side) * (pixels.shape[3] // side)
        shown = min(max(1, round((1 - self.share) * count)), count - 1)
        if shown < 1:
            raise MethodError(
                f"a picture of {pixels.shape[3]} x {pixels.shape[2]} is one patch, of which none can be hidden",
                where="mae",
                remedy="use a model of smaller patches",
            )
        visible = torch.tensor([sorted(row_rng(i).sample(range(count), shown)) for i in range(len(pixels))])
        fields = {**batch.fields, "visible": visible, "sequences": torch.arange(len(pixels))}
        return batch.replace(inputs={"pixel_values": pixels}, fields=fields)

    def objective(self, outputs: Outputs, batch: Batch, state: Any) -> Loss:
        visible, pixels, side = batch.fields["visible"], batch.inputs["pixel_values"].float(), state.data["patch"]
        target = normalised(patches(pixels, side))
        shown = outputs.raw.last_hidden_state[:, -visible.shape[1] :].float()
        made = state.decoder(shown, visible, pixels.shape[2] // side, pixels.shape[3] // side)
        apart = (made - target).square().mean(2)
        hidden = torch.ones_like(apart).scatter(1, visible, 0.0)
        return Loss((apart * hidden).sum(1) / hidden.sum(1))
