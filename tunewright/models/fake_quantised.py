"""A linear layer that computes as if weights, inputs and cached outputs were whole numbers of few bits, rotated.

    y = q(x H) q(W H)^T + b        q(v) = s clamp(round(v / s), -2^(b-1), 2^(b-1) - 1)    s = c max|v| / (2^(b-1) - 1)

s is one for each row of W (each output) and for each token of x. H is orthogonal: Walsh-Hadamard matrices on blocks of
the largest power of two that divides the width, over the root of their size, so that H H^T = 1 and rotations alone
change nothing. An output that is cached (keys, values) is rounded for each token and head, y <- q(y H) H^T or q(y).
Gradients pass q as they are, also where it cuts.

Shapes: x [..., in], W [out, in], y [..., out].
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tunewright.models.delta_forms import Delta
from tunewright.models.dora import matrix_of
from tunewright.models.sites import Site


@cache
def _hadamard(size: int) -> Tensor:
    """[size, size] of a power of two, orthogonal and its own inverse."""
    H = torch.ones(1, 1, dtype=torch.float64)
    while len(H) < size:
        H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)])
    return (H / size**0.5).float()


def rotated(v: Tensor) -> Tensor:
    """v H along the last dimension; twice gives v back."""
    size = v.shape[-1] & -v.shape[-1]
    return (v.unflatten(-1, (-1, size)) @ _hadamard(size).to(v)).flatten(-2)


def rounded(v: Tensor, bits: int, clip: float = 1.0) -> Tensor:
    """q(v) with one s for the last dimension; its gradient is v's. A row of zeros stays one."""
    most = 2 ** (bits - 1) - 1
    s = (clip * v.detach().abs().amax(-1, keepdim=True) / most).clamp_min(1e-12)
    near = s * (v.detach() / s).round().clamp(-most - 1, most)
    return v + (near - v).detach()


def by_head(y: Tensor, head: int, bits: int, clip: float, turned: bool) -> Tensor:
    """y [..., heads x head] rounded for each token and head, in the rotated directions or its own."""
    heads = y.unflatten(-1, (-1, head))
    heads = rotated(rounded(rotated(heads), bits, clip)) if turned else rounded(heads, bits, clip)
    return heads.flatten(-2)


class FakeQuantised(Delta):
    """q(x H) q(W H)^T - x W^T, and what rounding the output adds. It has no tensors: W itself may train through it.

    `bits`: of weights, inputs and outputs (0: as they are). `turned`: whether H stands there, and on the output.
    """

    form = "fake-quantised"
    foldable: ClassVar[bool] = False
    reads_weight: ClassVar[bool] = True
    replaces: ClassVar[bool] = True

    def __init__(self, bits: tuple[int, int, int], turned: tuple[bool, bool], head: int, clip: float):
        super().__init__()
        self.bits, self.turned, self.head, self.clip = bits, turned, head, clip

    def replaced(self, x: Tensor, layer: Any) -> Tensor:
        W, (of_weight, of_input, of_output) = matrix_of(layer), self.bits
        if self.turned[0]:
            x, W = rotated(x), rotated(W)
        x = rounded(x, of_input, self.clip) if of_input else x
        W = rounded(W, of_weight, self.clip) if of_weight else W
        y = F.linear(x, W.to(x.dtype), getattr(layer, "bias", None))
        return by_head(y, self.head, of_output, self.clip, self.turned[1]) if of_output else y

    def forward(self, x: Tensor, y: Tensor, layer: Any = None, first: bool = True) -> Tensor:
        own = F.linear(x, matrix_of(layer).to(x.dtype), getattr(layer, "bias", None))
        return y + (self.replaced(x, layer) - own).to(y.dtype) * self.strength

    def settings(self) -> dict[str, Any]:
        return {"bits": list(self.bits), "turned": list(self.turned), "head": self.head, "clip": self.clip}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> FakeQuantised:
        a, b, c = settings["bits"]
        return cls((a, b, c), (settings["turned"][0], settings["turned"][1]), settings["head"], settings["clip"])
