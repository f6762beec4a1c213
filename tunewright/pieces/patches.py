"""Pictures as patches: cut in their order, each brought to one scale, where each lies, and a decoder of hidden ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LONGEST = 10_000.0
"""The longest wave of positions, in patches."""


def patches(pixels: Tensor, side: int) -> Tensor:
    """[R, C, H, W] as patches in their order, each its rows of pixels [R, P, side * side * C]."""
    rows, channels, high, wide = pixels.shape
    cut = pixels[:, :, : high // side * side, : wide // side * side]
    cut = cut.reshape(rows, channels, high // side, side, wide // side, side)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(rows, (high // side) * (wide // side), -1)


def normalised(x: Tensor) -> Tensor:
    """Each patch [.., n] at mean 0 and variance 1 (He et al. 2021, section 3)."""
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-6).sqrt()


def positions(high: int, wide: int, width: int) -> Tensor:
    """[high * wide, width] sines and cosines of each patch's row and column, a half of the width each."""
    waves = torch.exp(-math.log(LONGEST) * torch.arange(width // 4) / (width // 4))
    down, across = torch.arange(high)[:, None] * waves, torch.arange(wide)[:, None] * waves

    def told(x: Tensor) -> Tensor:
        return torch.cat([x.sin(), x.cos()], 1)

    both = [told(down)[:, None].expand(-1, wide, -1), told(across)[None].expand(high, -1, -1)]
    return torch.cat(both, 2).reshape(high * wide, width)


class PatchDecoder(nn.Module):
    """Makes all patches [R, P, out] of the states [R, S, in] of the shown ones: a few transformer blocks of `width`."""

    def __init__(self, inputs: int, width: int, out: int, heads: int, depth: int):
        super().__init__()
        self.enter, self.leave = nn.Linear(inputs, width), nn.Linear(width, out)
        self.hidden = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.ModuleList(_block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, states: Tensor, visible: Tensor, high: int, wide: int) -> Tensor:
        """`visible` [R, S]: the places of the shown ones among high * wide."""
        shown = self.enter(states)
        at = visible[..., None].expand(-1, -1, shown.shape[2])
        x = self.hidden.expand(len(shown), high * wide, -1).scatter(1, at, shown)
        x = x + positions(high, wide, x.shape[2]).to(x)
        for block in self.blocks:
            x = block(x)
        made: Tensor = self.leave(self.norm(x))
        return made


def _block(width: int, heads: int) -> nn.Module:
    """Attention and an MLP of four times the width, each behind a normalisation."""
    return nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
