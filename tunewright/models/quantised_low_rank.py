"""A weight as a matrix in few bits, frozen, and a low-rank product that trains: x (Q + s B A)^T in the place of x W^T.

Shapes: W [out, in], Q of that shape, held as `normal_float.Format` says; A [r, in], B [out, r]. Q is made anew for each
product, and again for the backward pass. The layer's own weight W is not read while the whole change stands there (it
is for the base, and where the change is dialled down).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.models.delta_forms import Delta
from tunewright.models.dora import matrix_of
from tunewright.models.normal_float import PARTS, Format, dequantise, empty
from tunewright.models.sites import Site


class _Product(torch.autograd.Function):
    """x Q^T with Q made from its codes in both passes, so that only the codes are kept between them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: QuantisedLowRank) -> Tensor:
        ctx.change = change
        return x @ change.quantised(x.dtype).t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (g,) = gradients
        return g @ ctx.change.quantised(g.dtype), None


class QuantisedLowRank(Delta):
    """Q + s B A - W. `dropout` acts on the input of the product alone."""

    form = "quantised-low-rank"
    reads_weight: ClassVar[bool] = True
    replaces: ClassVar[bool] = True

    codes: Tensor
    steps: Tensor
    tops: Tensor
    low: Tensor

    def __init__(
        self, A: Tensor, B: Tensor, scale: float, held: Mapping[str, Tensor], bits: Format, *, dropout: float = 0.0
    ):
        super().__init__()
        self.lora_A, self.lora_B = nn.Parameter(A), nn.Parameter(B)
        self.scale, self.dropout, self.bits = float(scale), dropout, bits
        for part in PARTS:
            self.register_buffer(part, held[part])

    @property
    def rank(self) -> int:
        return int(self.lora_A.shape[0])

    def quantised(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Q [out, in]."""
        held = {part: getattr(self, part) for part in PARTS}
        return dequantise(held, self.bits, (self.lora_B.shape[0], self.lora_A.shape[1]), dtype)

    def matrix(self) -> Tensor:
        """Q + s B A [out, in], fp32."""
        return torch.addmm(self.quantised(), self.lora_B.float(), self.lora_A.float(), alpha=self.scale)

    def folded(
        self, weight: Tensor, bias: Tensor | None, strength: float = 1.0, layer: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        own = weight if layer is None else layer
        return weight + (self.matrix() - own.float()).to(weight.dtype) * strength, bias

    def replaced(self, x: Tensor, layer: Any) -> Tensor:
        """The layer's output with the whole change, which takes no product with the layer's own weight."""
        y: Tensor = _Product.apply(x, self)
        bias = getattr(layer, "bias", None)
        y = y if bias is None else y + bias
        return y + self._low(x).to(y.dtype)

    def forward(self, x: Tensor, y: Tensor, layer: Any = None, first: bool = True) -> Tensor:
        own = F.linear(x, matrix_of(layer).to(x.dtype))
        change = _Product.apply(x, self) - own + self._low(x).to(own.dtype)
        return y + change.to(y.dtype) * self.strength

    def _low(self, x: Tensor) -> Tensor:
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        return F.linear(F.linear(x.to(self.lora_A.dtype), self.lora_A), self.lora_B) * self.scale

    def settings(self) -> dict[str, Any]:
        return {"rank": self.rank, "scale": self.scale, "dropout": self.dropout, "bits": self.bits.settings()}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> QuantisedLowRank:
        r, out, bits = settings["rank"], site.out_features, Format(**settings["bits"])
        A, B = torch.zeros(r, site.in_features), torch.zeros(out, r)
        held = empty(bits, out * site.in_features)
        return cls(A, B, settings["scale"], held, bits, dropout=settings["dropout"])
