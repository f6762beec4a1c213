"""A low-rank change of a convolution: a convolution of few channels with the layer's own kernel, and one over a point.

Shapes: a weight [out, in / groups, kernel ...], A [r, in / groups * kernel] and B [out, r], as of the weight laid out
as a matrix, so that whatever folds, adds or reads low-rank changes of matrices does it here too.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from tunewright.errors import MethodError
from tunewright.models.delta_forms import LowRank
from tunewright.models.sites import Site
from tunewright.models.tucker import geometry_of


class LowRankConv(LowRank):
    """s (B A - B0 A0) on a convolution: y + s B * (A * x), where A goes over x as the layer does and B is over a point.

    With groups the change is made whole, B A, and convolved with: A's kernels are then those of every group.
    `dropout` acts on the change's input. `kernel`: lengths of the kernel's axes; `geometry`: how it goes over x.
    """

    form = "low-rank-conv"
    compiles = False  # not tried
    site_kinds: ClassVar[tuple[str, ...]] = ("conv",)

    def __init__(
        self,
        A: Tensor,
        B: Tensor,
        scale: float,
        *,
        kernel: tuple[int, ...],
        geometry: dict[str, Any],
        dropout: float = 0.0,
        offset: bool = False,
    ):
        super().__init__(A, B, scale, dropout=dropout, offset=offset)
        self.kernel, self.geometry = tuple(kernel), dict(geometry)
        if A.shape[1] % math.prod(kernel):
            raise MethodError(f"A {list(A.shape)} holds no whole kernels of {list(kernel)}")

    @classmethod
    def on(cls, site: Site, low_rank: LowRank) -> LowRankConv:
        """A change of a matrix, as one of the convolution whose weight is laid out so. MethodError for one that pads
        with anything but zeros.
        """
        made = cls(
            low_rank.lora_A.detach(),
            low_rank.lora_B.detach(),
            low_rank.scale,
            kernel=tuple(site.weight.shape[2:]),
            geometry=geometry_of(site),
            dropout=low_rank.dropout,
        )
        made.offset_A, made.offset_B = low_rank.offset_A, low_rank.offset_B
        return made

    @property
    def grouped(self) -> bool:
        return bool(self.geometry["groups"] > 1)

    @property
    def entries(self) -> int:
        A, B = self.pair()
        return len(B) * A.shape[1] if self.grouped else A.numel() + B.numel()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        A, B = self.pair()
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        convolve = F.conv1d if len(self.kernel) == 1 else F.conv2d
        x = x.to(A.dtype)
        if self.grouped:
            made = convolve(x, (B @ A).unflatten(1, (-1, *self.kernel)), **self.geometry)
        else:
            low = convolve(x, A.unflatten(1, (-1, *self.kernel)), **self.geometry)
            made = convolve(low, B.reshape(*B.shape, *(1,) * len(self.kernel)))
        return y + made.to(y.dtype) * (self.scale * self.strength)

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"kernel": list(self.kernel), "geometry": self.geometry}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> LowRankConv:
        plain = LowRank.rebuild(settings, site)
        return cls(
            plain.lora_A.detach(),
            plain.lora_B.detach(),
            settings["scale"],
            kernel=tuple(settings["kernel"]),
            geometry=settings["geometry"],
            dropout=settings["dropout"],
            offset=settings["offset"],
        )
