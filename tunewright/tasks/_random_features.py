"""Features of pictures by a small network that was never trained, and is the same everywhere.

Four convolutions (3 x 3, each halving the sides of a picture of 32 x 32, leaky ReLU), whose last map is projected onto
FEATURES numbers; weights are normal, scaled by He et al. (arXiv:1502.01852), from a fixed seed. Naeem et al. 2020
(arXiv:2002.09797, section 4) compare generators by features of a randomly drawn network where pictures are unlike
ImageNet's, and found such distances to tell them apart; they take a random VGG16 with 64 features.

No distance of such features is an FID, which is defined by a trained Inception network.
"""

from __future__ import annotations

import json
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, leaky_relu

FEATURES, SIDE, SEED = 64, 32, 20_02_09797
_WIDTHS = (3, 16, 32, 64, 64)
_DIGITS = 6


@lru_cache(maxsize=1)
def _weights() -> tuple[Tensor, ...]:
    draw, out = torch.Generator().manual_seed(SEED), list[Tensor]()
    for before, after in zip(_WIDTHS, _WIDTHS[1:], strict=False):
        out.append(torch.randn(after, before, 3, 3, generator=draw) * (2 / (9 * before)) ** 0.5)
    flat = _WIDTHS[-1] * (SIDE // 2 ** (len(_WIDTHS) - 1)) ** 2
    return (*out, torch.randn(FEATURES, flat, generator=draw) / flat**0.5)


@torch.no_grad()
def features(pictures: Tensor) -> Tensor:
    """[R, FEATURES] of uint8 pictures [R, c, H, W] on the CPU, of any size; grey ones as three equal channels."""
    now = pictures.float() / 127.5 - 1
    now = now.expand(-1, 3, -1, -1) if now.shape[1] == 1 else now[:, :3]
    now = interpolate(now, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    *kernels, last = _weights()
    for kernel in kernels:
        now = leaky_relu(conv2d(now, kernel, stride=2, padding=1), 0.2)
    return now.flatten(1) @ last.T


def texts_of(pictures: Tensor) -> list[str]:
    """Each picture's features as a text, to six digits."""
    return [json.dumps([float(f"{v:.{_DIGITS}g}") for v in row]) for row in features(pictures).tolist()]
