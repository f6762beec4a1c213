"""A form of change: each channel of a layer's output scaled and shifted. It folds into the layer's weight and bias.

It hangs on linear layers, convolutions and norms. Which axis holds a layer's channels, and whether a norm's weight
takes a factor at all, is found by trying (`channel_axis`): Gemma's norms multiply by 1 + weight, so that no factor
folds.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tunewright.models.delta_forms import Delta
from tunewright.models.sites import Site

CONV_AXIS, LAST = 1, -1


class ScaleShift(Delta):
    """y <- y + s ((g - 1) y + b) on a layer's output y: scale g [C] and shift b [C], or no shift.

    `axis` is that of y's channels: the last one, or 1 for what convolutions give. At s = 1 it is g y + b.
    """

    form = "scale-shift"
    site_kinds: ClassVar[tuple[str, ...]] = ("linear", "conv1d", "conv", "norm")

    def __init__(self, scale: Tensor, shift: Tensor | None, axis: int = LAST):
        super().__init__()
        self.scale = nn.Parameter(scale)
        self.shift = None if shift is None else nn.Parameter(shift)
        self.axis = axis

    def factor(self, strength: float) -> Tensor:
        """[C] what the output is multiplied with at a strength."""
        return 1.0 + (self.scale - 1.0) * strength

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        trailing = () if self.axis == LAST else (1,) * (y.dim() - 1 - self.axis)
        y = y * self.factor(self.strength).view(-1, *trailing).to(y.dtype)
        return y if self.shift is None else y + (self.shift * self.strength).view(-1, *trailing).to(y.dtype)

    def folded(self, weight: Tensor, bias: Tensor | None, strength: float = 1.0) -> tuple[Tensor, Tensor | None]:
        g = self.factor(strength).to(weight.dtype)
        weight = weight * g.view(-1, *(1,) * (weight.dim() - 1))
        bias = None if bias is None else bias * g
        if self.shift is None:
            return weight, bias
        shift = self.shift.to(weight.dtype) * strength
        return weight, shift if bias is None else bias + shift

    def settings(self) -> dict[str, Any]:
        return {"size": self.scale.numel(), "shift": self.shift is not None, "axis": self.axis}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> ScaleShift:
        k = settings["size"]
        return cls(torch.zeros(k), torch.zeros(k) if settings["shift"] else None, settings["axis"])


def channel_axis(site: Site) -> int | None:
    """The axis of a layer's output that a factor on its weight's first axis scales; None: it cannot be scaled so.

    A norm is tried on a copy with made-up numbers, so that models without values are judged alike.
    """
    if site.kind in ("linear", "conv1d"):
        return None if site.unfit else LAST
    if site.kind == "conv":
        return CONV_AXIS
    return _norm_axis(site) if site.kind == "norm" else None


@torch.no_grad()
def _norm_axis(site: Site) -> int | None:
    if len(inspect.signature(site.module.forward).parameters) != 1:
        return None  # a gate beside the input is normalised with it
    size = site.out_features
    module = _made_up(site.module)
    generator = torch.Generator().manual_seed(0)
    g = torch.rand(size, generator=generator) + 0.5
    bias = getattr(module, "bias", None)
    for axis, shape in ((LAST, (2, size + 1, size)), (CONV_AXIS, (2, size, 3, 3))):
        x = torch.rand(shape, generator=generator)
        weight: Any = module.weight
        try:
            y = module(x)
            first = weight.detach().clone()
            weight.mul_(g)
            if bias is not None:
                bias.mul_(g)
            scaled = module(x)
            weight.copy_(first)
            if bias is not None:
                bias.div_(g)
        except (RuntimeError, ValueError, IndexError):
            continue
        if y.shape == x.shape and torch.allclose(scaled, y.movedim(axis, -1).mul(g).movedim(-1, axis), atol=1e-4):
            return axis
    return None


def _made_up(module: nn.Module) -> nn.Module:
    """A copy of a layer on the CPU, without deltas, in float32, with made-up weights and statistics."""
    made: Any = copy.deepcopy(module)
    if hasattr(made, "delta"):
        made.__class__ = made.tunewright_base
        del made.delta
    made = made.to_empty(device="cpu").float().eval()
    generator = torch.Generator().manual_seed(1)
    for t in (*made.parameters(), *made.buffers()):
        if t.is_floating_point():
            t.copy_(torch.rand(t.shape, generator=generator) + 0.5)
    return made  # type: ignore[no-any-return]
