"""A low-rank change that leaves a row's length to a number of its own: W <- m (W + s B A) / ||W + s B A||, row by row.

Shapes: W [out, in], A [r, in], B [out, r], m [out]; the norm is over a row's inputs and takes no gradient.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.models.delta_forms import Delta
from tunewright.models.flops import book
from tunewright.models.sites import Site

SMALLEST = 1e-30
"""A row of zeros has this length where it is divided by."""


def exactly(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, products are in their operands' own precision, whatever autocast is on outside."""
    on = device.type != "meta" and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


def matrix_of(layer: Any) -> Tensor:
    """[out, in] of a linear layer with deltas; one in 4 bits makes it anew."""
    weight: Tensor = layer.weight
    weight = weight.dequantize() if weight.is_quantized else weight
    return weight.t() if layer.tunewright_transposed else weight


class WeightDecomposed(Delta):
    """m / n (W + s B A) - W with n = ||W + s B A|| by row, held constant in the gradient.

    W is the layer's own weight, whatever other deltas hang there: changes add up. The layer's bias is not scaled.
    """

    form = "dora"
    reads_weight: ClassVar[bool] = True

    def __init__(self, A: Tensor, B: Tensor, magnitude: Tensor, scale: float, *, dropout: float = 0.0):
        super().__init__()
        self.lora_A, self.lora_B = nn.Parameter(A), nn.Parameter(B)
        self.magnitude = nn.Parameter(magnitude)
        self.scale, self.dropout = float(scale), dropout

    @property
    def rank(self) -> int:
        return int(self.lora_A.shape[0])

    def direction(self, weight: Tensor) -> Tensor:
        """W + s B A [out, in], in the precision of A and B."""
        with exactly(weight.device):
            return torch.addmm(weight.to(self.lora_A.dtype), self.lora_B, self.lora_A, alpha=self.scale)

    def lengths(self, weight: Tensor) -> Tensor:
        """n [out], without a gradient."""
        with torch.no_grad():
            return torch.linalg.vector_norm(self.direction(weight), dim=1).clamp_min(SMALLEST)

    def folded(
        self, weight: Tensor, bias: Tensor | None, strength: float = 1.0, layer: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        own = weight if layer is None else layer
        turned = self.direction(own) * (self.magnitude / self.lengths(own))[:, None]
        return weight + (turned - own).to(weight.dtype) * strength, bias

    def forward(self, x: Tensor, y: Tensor, layer: Any = None, first: bool = True) -> Tensor:
        """`layer` is the module itself; `first`: y is its own output and nothing more."""
        A, W = self.lora_A, matrix_of(layer)
        ratio = self.magnitude / self.lengths(W)
        book(2.0 * self.lora_B.numel() * A.shape[1], 0.0, y)
        more = (ratio - 1.0) * self.strength
        B = self.lora_B * (ratio * (self.scale * self.strength))[:, None]
        dropping = self.dropout > 0.0 and self.training
        if dropping:
            x = F.dropout(x, self.dropout)
        low = F.linear(x.to(A.dtype), A)
        if dropping or not first:
            own = F.linear(x, W.to(x.dtype))
            return y + (F.linear(low, B) + own * more).to(y.dtype)
        bias = getattr(layer, "bias", None)
        change = F.linear(low, B, None if bias is None else (-more * bias).to(B.dtype))
        return torch.addcmul(change.to(more.dtype), y.to(more.dtype), 1.0 + more).to(y.dtype)

    def settings(self) -> dict[str, Any]:
        return {"rank": self.rank, "scale": self.scale, "dropout": self.dropout}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> WeightDecomposed:
        r, out = settings["rank"], site.out_features
        A, B = torch.zeros(r, site.in_features), torch.zeros(out, r)
        return cls(A, B, torch.zeros(out), settings["scale"], dropout=settings["dropout"])
