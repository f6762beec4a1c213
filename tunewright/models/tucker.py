"""A form of change in Tucker's form: a small core, multiplied along each axis of a weight by a thin matrix.

Axes of a weight as counted here: what it reads (in), what it gives (out), and a convolution's kernel (height, width). A
convolution with groups reads in / groups channels at a time, and its weight's first axis is that long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.errors import MethodError
from tunewright.models.delta_forms import Delta
from tunewright.models.sites import Site


def axes_of(site: Site) -> list[int]:
    """Lengths of a weight's axes: in, out and those of the kernel."""
    out, inputs, *kernel = site.weight.shape if site.kind == "conv" else site.matrix().shape
    return [int(inputs), int(out), *map(int, kernel)]


def geometry_of(site: Site) -> dict[str, Any]:
    """How a convolution goes over its input, as `torch.nn.functional` names it; empty for a linear layer.

    MethodError for one that pads with anything but zeros.
    """
    if site.kind != "conv":
        return {}
    module: Any = site.module
    if module.padding_mode != "zeros":
        raise MethodError(
            f"a change in Tucker's form cannot hang on '{site.name}', which pads with '{module.padding_mode}'",
            where="target_modules",
            remedy="name convolutions that pad with zeros, or linear layers",
        )
    plain = {"stride": list(module.stride), "dilation": list(module.dilation), "groups": module.groups}
    return {**plain, "padding": module.padding if isinstance(module.padding, str) else list(module.padding)}


def expanded(core: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """[d_1, ..., d_N]: the core [r_1, ..., r_N] multiplied along axis i by U_i [d_i, r_i]."""
    for U in factors:
        core = torch.tensordot(core, U, ([0], [1]))  # its axis goes to the end; after the last all stand again
    return core


class Tucker(Delta):
    """s G x_1 U_1 ... x_N U_N: core G [r_in, r_out, r_k ...], factors U_i [d_i, r_i], along (in, out, kernel ...).

    A linear layer multiplies by the three thin matrices one after the other. So does a convolution: over U_in at each
    place, over the core's kernels, over U_out at each place; with groups the whole change is made and convolved with.
    `dropout` acts on the input of the change alone.
    """

    form = "tucker"
    compiles = True
    site_kinds: ClassVar[tuple[str, ...]] = ("linear", "conv1d", "conv")

    def __init__(
        self,
        core: Tensor,
        factors: Sequence[Tensor],
        scale: float,
        *,
        dropout: float = 0.0,
        geometry: dict[str, Any] | None = None,
    ):
        super().__init__()
        if tuple(core.shape) != tuple(U.shape[1] for U in factors):
            raise MethodError(f"a core {list(core.shape)} and factors {[list(U.shape) for U in factors]}")
        self.core = nn.Parameter(core)
        self.factors = nn.ParameterList([nn.Parameter(U) for U in factors])
        self.scale, self.dropout, self.geometry = float(scale), dropout, dict(geometry or {})

    @property
    def grouped(self) -> bool:
        return bool(self.geometry) and self.geometry["groups"] > 1

    @property
    def entries(self) -> int:
        if self.grouped:
            return math.prod(len(U) for U in self.factors)
        kernel = math.prod(len(U) for U in self.factors[2:])
        return sum(U.numel() for U in self.factors[:2]) + self.core.shape[0] * self.core.shape[1] * kernel

    def whole(self) -> Tensor:
        """[out, in, kernel ...], at strength 1."""
        return expanded(self.core, list(self.factors)).transpose(0, 1) * self.scale

    def change(self) -> Tensor:
        return self.whole().flatten(1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        made = self._convolved(x.to(self.core.dtype)) if self.geometry else self._linear(x.to(self.core.dtype))
        return y + made.to(y.dtype) * (self.scale * self.strength)

    def _linear(self, x: Tensor) -> Tensor:
        first, last = self.factors
        return F.linear(F.linear(F.linear(x, first.t()), self.core.t()), last)

    def _convolved(self, x: Tensor) -> Tensor:
        first, last, *kernel = self.factors
        convolve = F.conv1d if len(kernel) == 1 else F.conv2d
        if self.grouped:
            return convolve(x, expanded(self.core, list(self.factors)).transpose(0, 1), **self.geometry)
        point = (1,) * len(kernel)
        inner = self.core
        for U in kernel:  # the kernel's axes come round from the third place
            inner = torch.tensordot(inner, U, ([2], [1]))
        x = convolve(x, first.t().reshape(-1, len(first), *point))
        x = convolve(x, inner.transpose(0, 1), **self.geometry)
        return convolve(x, last.reshape(*last.shape, *point))

    def settings(self) -> dict[str, Any]:
        axes = [len(U) for U in self.factors]
        shape = {"axes": axes, "ranks": list(self.core.shape), "scale": self.scale, "dropout": self.dropout}
        return {**shape, "geometry": self.geometry}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> Tucker:
        axes, ranks = settings["axes"], settings["ranks"]
        if axes != axes_of(site):
            raise MethodError(f"a change of {axes} does not fit '{site.name}', whose axes are {axes_of(site)}")
        factors = [torch.zeros(d, r) for d, r in zip(axes, ranks, strict=True)]
        more = {k: settings[k] for k in ("dropout", "geometry")}
        return cls(torch.zeros(ranks), factors, settings["scale"], **more)
