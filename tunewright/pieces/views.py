"""Changed views of rows that have no labels: pictures moved, zoomed, mirrored and lit otherwise, texts with some tokens
unread. Each row's draws come from a generator of its own, so that a view does not depend on the rows beside it.

Shapes: R rows, pictures [R, C, H, W] as a model takes them (normalised), texts [R, L].
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tunewright.contract.method import torch_generator
from tunewright.contract.unlabelled import Unlabelled
from tunewright.errors import MethodError


@dataclass(frozen=True)
class Changes:
    """How far a view may lie from its row.

    Pictures: `area`, least and largest share of the picture that fills the view; `turn` in degrees and `move` as a
    share of the side, both ways; `mirror`: half of the views are; `light`: brightness and contrast are scaled by 1 -
    light to 1 + light; `noise`: standard deviation in units of the pixels that the model takes. Texts: `drop`, share of
    the tokens between the first and the last that are not read.
    """

    area: tuple[float, float] = (1.0, 1.0)
    turn: float = 0.0
    move: float = 0.0
    mirror: bool = False
    light: float = 0.0
    noise: float = 0.0
    drop: float = 0.0


def views(batch: Unlabelled, changes: Changes, rngs: Sequence[random.Random]) -> Unlabelled:
    """One changed view of every row; `rngs` [R]. MethodError for inputs that are neither pictures nor padded texts."""
    if "pixel_values" in batch.inputs:
        pixels = pictures(batch.inputs["pixel_values"], changes, rngs)
        return batch.replace(inputs={**batch.inputs, "pixel_values": pixels})
    if "attention_mask" in batch.inputs:
        mask = unread(batch.inputs["attention_mask"], changes.drop, rngs)
        return batch.replace(inputs={**batch.inputs, "attention_mask": mask})
    raise MethodError(
        f"there are no views of inputs {', '.join(batch.inputs)}",
        where="test_time",
        remedy="use a task of pictures or texts",
    )


def pictures(pixels: Tensor, changes: Changes, rngs: Sequence[random.Random]) -> Tensor:
    """Changed pictures [R, C, H, W], interpolated between pixels; beyond an edge its last pixels go on."""
    rows = [_affine(changes, rng) for rng in rngs]
    theta = torch.tensor(rows, dtype=pixels.dtype, device=pixels.device)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    out = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    if changes.light:
        scales = [[1 + rng.uniform(-changes.light, changes.light) for _ in range(2)] for rng in rngs]
        bright, contrast = torch.tensor(scales, dtype=out.dtype, device=out.device).T[..., None, None, None]
        mean = out.mean((1, 2, 3), keepdim=True)
        out = (out - mean) * contrast + mean * bright
    if changes.noise:
        drawn = [torch.randn(out.shape[1:], generator=torch_generator(rng)) for rng in rngs]
        out = out + changes.noise * torch.stack(drawn).to(out)
    return out


def _affine(changes: Changes, rng: random.Random) -> list[list[float]]:
    """[2, 3]: from places of the view to places of the picture, both from -1 to 1."""
    side = math.sqrt(rng.uniform(*changes.area))
    angle = math.radians(rng.uniform(-changes.turn, changes.turn))
    room = abs(1 - side)  # a crop may lie anywhere inside the picture
    x, y = (rng.uniform(-1, 1) * (room + 2 * changes.move) for _ in range(2))
    flip = -1.0 if changes.mirror and rng.random() < 0.5 else 1.0
    c, s = side * math.cos(angle), side * math.sin(angle)
    return [[c * flip, -s, x], [s * flip, c, y]]


def unread(mask: Tensor, drop: float, rngs: Sequence[random.Random]) -> Tensor:
    """A mask [R, L] of which each place between a row's first and last token is 0 with probability `drop`."""
    out = mask.clone()
    for i, rng in enumerate(rngs):
        places = mask[i].nonzero()[:, 0].tolist()
        for j in places[1:-1]:
            if rng.random() < drop:
                out[i, j] = 0
    return out


def many(
    batch: Unlabelled, changes: Changes, count: int, row_rng: Callable[[int], random.Random], *, plain: bool = False
) -> Unlabelled:
    """`count` views of every row, one set of all rows after the other: [R] becomes [count R]. `plain`: the first set
    is the rows as they are.
    """
    rows = len(batch.row_ids)
    rngs = [row_rng(i) for i in range(rows)]
    repeated = batch.repeated(count)
    changed = views(repeated, changes, [rngs[i] for _ in range(count) for i in range(rows)])
    if not plain:
        return changed
    inputs = {k: torch.cat([batch.inputs[k], v[rows:]]) for k, v in changed.inputs.items()}
    return changed.replace(inputs=inputs)
