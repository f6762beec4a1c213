"""Changed views of encoded pictures: cut out and enlarged, mirrored, turned, in other light and colours.

The changes are those of SimCLR (Chen et al. 2020, arXiv:2002.05709, appendix A) but for hue, blur and the stretching of
what is cut out; how far they go is `data.views`. Each row's draws come from a generator of its own, so that a view does
not depend on the rows beside it. Light and colours change on pixels of 0..1, before these are normalised; of pixels
that only the model's own processor can make, on those.

Shapes: R rows, pictures [R, C, H, W].
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewright.contract.batch import Row
from tunewright.pieces.views import Changes, pictures

LUMA = (0.299, 0.587, 0.114)
"""How much red, green and blue light a picture (ITU-R BT.601)."""


def as_given(rows: Sequence[Row]) -> Tensor:
    """Rows' pictures as the model takes them, unchanged."""
    return _normalised(_pixels(rows), rows[0].fields)


def a_view(rows: Sequence[Row], rngs: Sequence[random.Random]) -> Tensor:
    """One changed view of each row's picture, as the model takes it; `rngs` [R]."""
    fields = rows[0].fields
    how: Mapping[str, Any] = fields["views"]
    least, most = how["area"]
    x = pictures(_pixels(rows), Changes(area=(least, most), mirror=how["mirror"], turn=how["turn"]), rngs)
    x = _lit(x, how, rngs)
    return _normalised(x.clamp(0, 1) if "scale" in fields else x, fields)


def _lit(x: Tensor, how: Mapping[str, Any], rngs: Sequence[random.Random]) -> Tensor:
    """Pictures with other brightness, contrast and strength of colours, and some without colours."""
    light, colour, grey = how["light"], how["colour"], how["grey"]
    drawn = [[*(1 + rng.uniform(-k, k) for k in (light, light, colour)), float(rng.random() < grey)] for rng in rngs]
    bright, contrast, strong, plain = torch.tensor(drawn, dtype=x.dtype).T[..., None, None, None]
    x = x * bright
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * contrast + mean
    if x.shape[1] != len(LUMA):
        return x
    luma = (x * torch.tensor(LUMA, dtype=x.dtype)[:, None, None]).sum(1, keepdim=True)
    return luma + (x - luma) * strong * (1 - plain)


def _pixels(rows: Sequence[Row]) -> Tensor:
    """[R, C, H, W] fp32: of 0..1 where rows hold 8 bits, else as the model takes them."""
    pixels = torch.from_numpy(np.stack([r.fields["pixels"] for r in rows])).float()
    return pixels / 255 if "scale" in rows[0].fields else pixels


def _normalised(x: Tensor, fields: Mapping[str, Any]) -> Tensor:
    if "scale" not in fields:
        return x
    mean, std = (torch.tensor(fields[n], dtype=torch.float32)[:, None, None] for n in ("mean", "std"))
    return (x * (255 * fields["scale"]) - mean) / std
