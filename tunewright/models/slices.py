"""A dense slice of a weight that trains: whole columns (what a layer reads) or whole rows (what it gives).

Shapes: x [..., in] enters a linear site and y [..., out] leaves it; k places of the one or of the other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError
from tunewright.models.delta_forms import Delta
from tunewright.models.sites import Site

SIDES = ("in", "out")


class Slice(Delta):
    """W + S at `places` [k] of one side: S [out, k] at columns (side "in"), S [k, in] at rows (side "out").

    `size` is that side's whole width. One thin dense product. Of columns, the backward pass keeps x at the k places
    alone, and forms S's gradient g^T x there and nothing of the rest of the weight.
    """

    form = "slice"

    places: Tensor

    def __init__(self, places: Tensor, values: Tensor, side: str, size: int):
        super().__init__()
        if side not in SIDES:
            raise MethodError(f"a slice lies on the side 'in' or 'out', not '{side}'")
        if values.shape[1 if side == "in" else 0] != places.numel():
            raise MethodError(f"{places.numel()} places on the side '{side}', and values {list(values.shape)}")
        self.register_buffer("places", places.to(torch.int64))
        self.values = nn.Parameter(values)
        self.side, self.size = side, size

    def change(self) -> Tensor:
        across = int(self.side == "in")
        shape = [self.size, self.size]
        shape[1 - across] = self.values.shape[1 - across]
        return self.values.new_zeros(shape).index_add(across, self.places, self.values)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.side == "in":
            part = nn.functional.linear(x.index_select(-1, self.places).to(self.values.dtype), self.values)
            return y + part.to(y.dtype) * self.strength
        part = nn.functional.linear(x.to(self.values.dtype), self.values)
        return y.index_add(-1, self.places, part.to(y.dtype) * self.strength)

    def settings(self) -> dict[str, Any]:
        return {"places": self.places.numel(), "side": self.side, "size": self.size}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> Slice:
        k = settings["places"]
        values = torch.zeros(site.out_features, k) if settings["side"] == "in" else torch.zeros(k, site.in_features)
        return cls(torch.zeros(k, dtype=torch.int64), values, settings["side"], settings["size"])
