"""A low-rank change whose numbers are held in 2, 4, 8, 16 or 32 bits, and whose rank-one pieces are kept or not, by
gates that train.

A number x in +-m is rounded to the grid of width w_2 = 2 m / 3, what is left of it to the next finer grid, and so on:

    Q(x) = x_2 + z_4 (x_4 + z_8 (x_8 + z_16 (x_16 + z_32 x_32)))    w_4 = w_2 / 5, w_8 = w_4 / 17, ...

each x_b the remainder rounded to a multiple of w_b, so that b bits are b bits: 2^b - 1 values, evenly apart. Rounding
passes gradients as they are. The gates z are hard-concrete (Louizos et al. 2018, arXiv:1712.01312): in training
z = clip(1.2 sigmoid((log u/(1-u) + phi) / beta) - 0.1, 0, 1) with u as `draw` left it, else 1 where phi is above
`OPEN`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.models.delta_forms import LowRank
from tunewright.models.sites import Site

BITS = (2, 4, 8, 16, 32)
BETA, LOW, HIGH = 2 / 3, -0.1, 1.1
SHIFT = -BETA * math.log(-LOW / HIGH)
"""P(z > 0) = sigmoid(phi + SHIFT)."""
OPEN = math.log(0.66 / 0.34) - SHIFT
"""phi above which a gate is open when nothing trains: it is 0 with a probability below 0.34."""


def drawn(phi: Tensor, u: Tensor) -> Tensor:
    """Gates of any shape as they are in training, by draws u from [0, 1) of their shape."""
    u = u.clamp(1e-6, 1 - 1e-6)
    return (torch.sigmoid((torch.logit(u) + phi) / BETA) * (HIGH - LOW) + LOW).clamp(0, 1)


def opened(phi: Tensor) -> Tensor:
    """Gates of any shape as they stand: 0 or 1."""
    return (phi > OPEN).to(phi.dtype)


def rounded(x: Tensor, m: Tensor, z: Tensor) -> Tensor:
    """Q(x) for numbers x of any shape in +-m (those outside are cut to it) and the gates z [4] of 4, 8, 16, 32 bits."""
    m = m.clamp_min(1e-12)
    end = m * (1 - 1e-6)  # the ends themselves would be rounded outwards
    left, width, parts = torch.minimum(torch.maximum(x, -end), end), 2 * m / 3, []
    for bits in BITS:
        if bits > 2:
            width = width / (2 ** (bits // 2) + 1)
        near = left / width
        part = (near + (near.round() - near).detach()) * width
        parts.append(part)
        left = left - part
    total = parts[-1]
    for part, gate in zip(parts[-2::-1], z.flip(0), strict=True):
        total = part + gate * total
    return total


class NestedBits(LowRank):
    """s Q(B) diag(Q(e) p) Q(A): e [r] a factor of each rank-one piece, p [r] their gates, open up to some piece.

    `bits` [3, 4] are the gates' phi of A's, B's and e's 4, 8, 16 and 32 bits, `pieces` [r - 1] those of all pieces but
    the first, which stays; `ranges` [3] the m of each. Outside of training it is a plain pair.
    """

    form = "nested-bits"
    compiles = True

    noise: Tensor

    def __init__(self, A: Tensor, B: Tensor, factor: Tensor, scale: float, bits: Tensor, pieces: Tensor):
        super().__init__(A, B, scale)
        self.factor, self.bits, self.pieces = nn.Parameter(factor), nn.Parameter(bits), nn.Parameter(pieces)
        self.register_buffer("noise", torch.full((bits.numel() + pieces.numel(),), 0.5))
        self.ranges = nn.Parameter(torch.stack([t.detach().abs().max() for t in (A, B, factor)]))

    def draw(self, generator: torch.Generator) -> None:
        """Draw what the gates are in training until the next draw."""
        self.noise.copy_(torch.rand(len(self.noise), generator=generator))

    def gates(self) -> tuple[Tensor, Tensor]:
        """(z [3, 4], z [r - 1]) of bits and pieces, as drawn while training, else as they stand."""
        if not self.training:
            return opened(self.bits), opened(self.pieces)
        of_bits, of_pieces = self.noise.split([self.bits.numel(), self.pieces.numel()])
        return drawn(self.bits, of_bits.view_as(self.bits)), drawn(self.pieces, of_pieces)

    def kept(self, gates: Tensor) -> Tensor:
        """[r] of the gates [r - 1]: a piece is kept where all before it are."""
        return torch.cat([gates.new_ones(1), gates.cumprod(0)])

    def pair(self) -> tuple[Tensor, Tensor]:
        z, pieces = self.gates()
        A, B, e = (
            rounded(t, m, of) for t, m, of in zip((self.lora_A, self.lora_B, self.factor), self.ranges, z, strict=True)
        )
        return A, B * (e * self.kept(pieces))

    def bits_of(self) -> tuple[int, int]:
        """(bits that A, B and e take as the gates stand, numbers that they are): pieces that are gone take none."""
        open_bits = opened(self.bits.detach()).cumprod(1).sum(1).long().tolist()
        rank = int(self.kept(opened(self.pieces.detach())).sum())
        sizes = (self.lora_A.shape[1], self.lora_B.shape[0], 1)
        return sum(rank * n * BITS[k] for n, k in zip(sizes, open_bits, strict=True)), self.rank * sum(sizes)

    def settings(self) -> dict[str, Any]:
        return {"rank": self.rank, "scale": self.scale}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> NestedBits:
        r = settings["rank"]
        A, B = torch.zeros(r, site.in_features), torch.zeros(site.out_features, r)
        return cls(A, B, torch.zeros(r), settings["scale"], torch.zeros(3, len(BITS) - 1), torch.zeros(r - 1))
