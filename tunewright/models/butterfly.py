"""A linear layer's input turned by a product of sparse rotations, in blocks of other places each; its output scaled.

y <- (1 + v) (x R) W^T, with the layer's bias behind it: R = M_m .. M_2 M_1 [in, in], M_i = P_i blockdiag(R_i) P_i^T
with blocks [b, b]. P_i deals half-blocks out, evens before odds, within stretches of 2^i b places (i from 0), so that
after m factors every output of a stretch of 2^(m - 1) b places has seen every input. Formulas are PEFT's.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.models.delta_forms import Delta
from tunewright.models.dora import exactly, matrix_of
from tunewright.models.rotation import cayley
from tunewright.models.sites import Site


def dealt(size: int, block: int, factor: int, factors: int) -> Tensor:
    """[size] which place stands at each place after P of the factor (from 0)."""
    if factors == 1:
        return torch.arange(size)
    chunks = torch.arange(2 ** (factor + 1))
    order = torch.cat([chunks[0::2], chunks[1::2]])
    return torch.arange(size).view(-1, len(chunks), block // 2)[:, order].reshape(-1)


class Butterfly(Delta):
    """`values` [m, in / b, b, b], whose skew-symmetric parts make the rotations; `scales` v [out]. Both from zero."""

    form = "butterfly"
    compiles = True
    reads_weight: ClassVar[bool] = True

    places: Tensor
    back: Tensor

    def __init__(self, values: Tensor, scales: Tensor):
        super().__init__()
        self.values, self.scales = nn.Parameter(values), nn.Parameter(scales)
        m, count, b, _ = values.shape
        places = torch.stack([dealt(count * b, b, i, m) for i in range(m)])
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("back", places.argsort(1), persistent=False)

    def rotations(self) -> Tensor:
        """[m, in / b, b, b] orthogonal blocks."""
        with exactly(self.values.device):
            return cayley(0.5 * (self.values - self.values.transpose(-1, -2)), None)

    def turned(self, rows: Tensor, R: Tensor, back: bool = False) -> Tensor:
        """rows [.., in] times R, or times R^T."""
        b = R.shape[-1]
        for i in range(len(R)) if back else reversed(range(len(R))):
            blocks = R[i].transpose(-1, -2) if back else R[i]
            parts = rows[..., self.back[i]].unflatten(-1, (-1, b))
            rows = torch.einsum("...rk,rkc->...rc", parts, blocks).flatten(-2)[..., self.places[i]]
        return rows

    def folded(
        self, weight: Tensor, bias: Tensor | None, strength: float = 1.0, layer: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        own = weight if layer is None else layer
        new = self.turned(own, self.rotations().to(own.dtype), back=True) * (1.0 + self.scales.to(own.dtype))[:, None]
        return weight + (new - own) * strength, bias

    def forward(self, x: Tensor, y: Tensor, layer: Any = None, first: bool = True) -> Tensor:
        """`layer` is the module itself; `first`: y is its own output and nothing more."""
        W, bias = matrix_of(layer), getattr(layer, "bias", None)
        R = self.rotations()
        new = F.linear(self.turned(x.to(R.dtype), R).to(x.dtype), W.to(x.dtype))
        own = F.linear(x, W.to(x.dtype)) if not first else y if bias is None else y - bias
        return y + ((new * (1.0 + self.scales) - own) * self.strength).to(y.dtype)

    def products(self) -> list[tuple[float, bool]]:
        m, count, b, _ = self.values.shape
        return [(m * count * b * b, self.values.requires_grad), (count * b * len(self.scales), False)]

    def settings(self) -> dict[str, Any]:
        m, count, b, _ = self.values.shape
        return {"factors": m, "blocks": count, "block_size": b}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> Butterfly:
        b = settings["block_size"]
        return cls(torch.zeros(settings["factors"], settings["blocks"], b, b), torch.zeros(site.out_features))
