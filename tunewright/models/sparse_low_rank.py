"""A change that is a low-rank product and values at fixed places of the same weight.

Shapes: x [..., in], A [r, in], B [out, r], `values` [k] at `indices` [k], flat into [out, in].
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError
from tunewright.models.delta_forms import Delta
from tunewright.models.sites import Site

Scales = tuple[float, float]


def whole(A: Tensor, B: Tensor, values: Tensor, indices: Tensor, scales: Scales) -> Tensor:
    """[out, in]: s B A, with t times the values added at their places; `scales` are (s, t)."""
    W, values = (B @ A) * scales[0], values * scales[1]
    return W.view(-1).scatter_add(0, indices.long(), values.to(W.dtype)).view_as(W)


class _Product(torch.autograd.Function):
    """x (s B A + t S)^T with the matrix made anew in each pass: between them only x, A, B and the values are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor, B: Tensor, values: Tensor, indices: Tensor, scales: Scales) -> Tensor:
        ctx.save_for_backward(x, A, B, values, indices)
        ctx.scales = scales
        return x @ whole(A, B, values, indices, scales).to(x.dtype).t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, A, B, values, indices = ctx.saved_tensors
        g = gradients[0].to(x.dtype)
        need_x, need_A, need_B, need_values = ctx.needs_input_grad[:4]
        gx = g @ whole(A, B, values, indices, ctx.scales).to(g.dtype) if need_x else None
        if not (need_A or need_B or need_values):
            return gx, None, None, None, None, None
        G = g.flatten(0, -2).t() @ x.flatten(0, -2)
        gA = (B.t() @ G) * ctx.scales[0] if need_A else None
        gB = (G @ A.t()) * ctx.scales[0] if need_B else None
        gv = G.reshape(-1)[indices.long()] * ctx.scales[1] if need_values else None
        return gx, gA, gB, gv, None, None


class LowRankSparse(Delta):
    """s B A + t S: a low-rank change and, at fixed places of the weight, values of their own.

    A layer's whole change [out, in] is there while its product or its gradient is made, and not in between.
    """

    form = "low-rank-sparse"
    compiles = True

    indices: Tensor

    def __init__(self, A: Tensor, B: Tensor, scale: float, indices: Tensor, values: Tensor, value_scale: float = 1.0):
        super().__init__()
        size = B.shape[0] * A.shape[1]
        if A.shape[0] != B.shape[1] or indices.shape != values.shape:
            raise MethodError(
                f"A is {list(A.shape)}, B {list(B.shape)}, and {indices.numel()} places have {values.numel()} values"
            )
        self.lora_A, self.lora_B, self.values = nn.Parameter(A), nn.Parameter(B), nn.Parameter(values)
        self.register_buffer("indices", indices.to(torch.int32 if size < 2**31 else torch.int64))
        self.scale, self.value_scale = float(scale), float(value_scale)

    @property
    def entries(self) -> int:
        return math.prod((self.lora_B.shape[0], self.lora_A.shape[1]))  # it is multiplied as a whole matrix

    def change(self) -> Tensor:
        return whole(self.lora_A, self.lora_B, self.values, self.indices, self._scales)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        product: Tensor = _Product.apply(
            x.to(self.lora_A.dtype), self.lora_A, self.lora_B, self.values, self.indices, self._scales
        )
        return y + product.to(y.dtype) * self.strength

    def settings(self) -> dict[str, Any]:
        shape = {"rank": self.lora_A.shape[0], "entries": self.values.numel()}
        return {**shape, "scale": self.scale, "value_scale": self.value_scale}

    @property
    def _scales(self) -> Scales:
        return self.scale, self.value_scale

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> LowRankSparse:
        r, k = settings["rank"], settings["entries"]
        A, B = torch.zeros(r, site.in_features), torch.zeros(site.out_features, r)
        places = torch.zeros(k, dtype=torch.int64)
        return cls(A, B, settings["scale"], places, torch.zeros(k), settings["value_scale"])
