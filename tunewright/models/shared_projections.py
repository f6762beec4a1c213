"""diag(b) B diag(d) A: two vectors a layer, and random matrices that all layers share.

Shapes: b [out] and d [r] train; A [r, in] and B [out, r] are the first columns and rows of one pair as large as the
largest layer, drawn from a seed as PEFT draws them, so that no file holds it. Read from a file whose pair another
version of torch drew, they are kept with the layer.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.models.delta_forms import Delta
from tunewright.models.sites import Site


@lru_cache(maxsize=4)
def projections(seed: int, rank: int, inputs: int, outputs: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """(A [rank, inputs], B [outputs, rank]) of a seed, uniform with Kaiming's bound sqrt(6 / fan in); fp32, and one
    tensor for all who ask.
    """
    generator = torch.Generator().manual_seed(seed)
    A = torch.empty(rank, inputs).uniform_(-math.sqrt(6 / inputs), math.sqrt(6 / inputs), generator=generator)
    B = torch.empty(outputs, rank).uniform_(-math.sqrt(6 / rank), math.sqrt(6 / rank), generator=generator)
    return A.to(device), B.to(device)


class SharedProjections(Delta):
    """`widths` (inputs, outputs) of the largest layer, with `seed`; or the layer's own `kept` (A, B)."""

    form = "shared-projections"
    scale = 1.0

    A: Tensor
    B: Tensor

    def __init__(
        self,
        b: Tensor,
        d: Tensor,
        inputs: int,
        *,
        seed: int = 0,
        widths: tuple[int, int] | None = None,
        kept: tuple[Tensor, Tensor] | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.vector_b, self.vector_d = nn.Parameter(b), nn.Parameter(d)
        self.inputs, self.seed, self.dropout = inputs, seed, dropout
        self.widths = (inputs, len(b)) if widths is None else (int(widths[0]), int(widths[1]))
        self.kept = kept is not None
        if kept is not None:
            self.register_buffer("A", kept[0])
            self.register_buffer("B", kept[1])

    def matrices(self) -> tuple[Tensor, Tensor]:
        """(A [r, in], B [out, r]) of this layer."""
        if self.kept:
            return self.A, self.B
        b, r = self.vector_b, len(self.vector_d)
        A, B = projections(self.seed, r, *self.widths, device=str(b.device))
        return A[:, : self.inputs], B[: len(b)]

    def pair(self) -> tuple[Tensor, Tensor]:
        """(A, B) of the same as a plain low-rank change."""
        A, B = self.matrices()
        return self.vector_d[:, None] * A, self.vector_b[:, None] * B

    def change(self) -> Tensor:
        A, B = self.pair()
        return B @ A

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        A, B = self.matrices()
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        low = F.linear(x.to(A.dtype), A) * self.vector_d
        # b behind the product: before it, its gradient would take a product more
        return y + (F.linear(low, B) * (self.vector_b * self.strength)).to(y.dtype)

    @property
    def entries(self) -> int:
        return len(self.vector_d) * (self.inputs + len(self.vector_b))

    def products(self) -> list[tuple[float, bool]]:
        return [(self.entries, False)]

    def settings(self) -> dict[str, Any]:
        return {
            "rank": len(self.vector_d),
            "seed": self.seed,
            "widths": list(self.widths),
            "kept": self.kept,
            "dropout": self.dropout,
        }

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> SharedProjections:
        r, inputs, outputs = settings["rank"], site.in_features, site.out_features
        kept = (torch.zeros(r, inputs), torch.zeros(outputs, r)) if settings["kept"] else None
        more = {"seed": settings["seed"], "widths": tuple(settings["widths"]), "dropout": settings["dropout"]}
        return cls(torch.zeros(outputs), torch.zeros(r), inputs, kept=kept, **more)
