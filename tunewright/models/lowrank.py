"""y = x W^T + b + s (x A^T) B^T for a frozen W: one pass that keeps only x for the backward (x A^T if A is frozen).

Shapes: x [..., in], W [out, in] (or [in, out] when `transposed`, as GPT-2's Conv1D stores it), A [r, in], B [out, r].

A frozen offset, s (B A - B0 A0), is the same with [A; A0] and [B, -B0] of rank 2r: two thin products more (r is about
3 % of the width), where a cached W - s B0 A0 would cost a second copy of every weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def low_rank_plain(
    x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scale: float, transposed: bool = False
) -> Tensor:
    """The same value by plain operations: differentiable any number of times."""
    y = F.linear(x, weight.t() if transposed else weight, bias)
    return y + F.linear(F.linear(x, A), B) * scale


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scale: float, transposed: bool
    ) -> Tensor:
        ctx.scale, ctx.transposed, ctx.shape = scale, transposed, x.shape
        rows = x.reshape(-1, x.shape[-1])
        y = F.linear(rows, weight.t() if transposed else weight, bias)
        low = rows @ A.t()
        ctx.save_for_backward(x if ctx.needs_input_grad[3] else low, weight, A, B)
        return y.addmm_(low, B.t(), alpha=scale)  # [N, out]: a view could not be changed in place afterwards

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kept, weight, A, B = ctx.saved_tensors
        need_x, _, _, need_A, need_B = ctx.needs_input_grad[:5]
        g, rows = gradient, kept.reshape(-1, kept.shape[-1])
        back = g @ B if need_x or need_A else None  # [N, r]
        gx = gA = gB = None
        if need_x:
            gx = g @ (weight.t() if ctx.transposed else weight)
            gx = gx.addmm_(back, A, alpha=ctx.scale).view(ctx.shape)
        if need_A:
            gA = (back.t() @ rows).mul_(ctx.scale)  # type: ignore[union-attr]
        if need_B:
            gB = (g.t() @ (rows @ A.t() if need_A else rows)).mul_(ctx.scale)
        return gx, None, None, gA, gB, None, None


def low_rank(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    A: Tensor,
    B: Tensor,
    scale: float,
    transposed: bool = False,
    *,
    second_order: bool = False,
) -> Tensor:
    """x W^T + b + scale (x A^T) B^T with W and b frozen; gradients for x, A and B.

    Under autocast everything is computed in its dtype; otherwise x, W, A and B must share one. `second_order` takes
    the plain operations, which can be differentiated again. Dropout on the low-rank input is not this function: use
    plain operations there.
    """
    if second_order or not torch.is_grad_enabled():
        return low_rank_plain(x, weight, bias, A, B, scale, transposed)
    shape = (*x.shape[:-1], weight.shape[int(transposed)])
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, A, B = (t.to(dtype) for t in (x, weight, A, B))
        bias = None if bias is None else bias.to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            return _LowRank.apply(x, weight.detach(), bias, A, B, scale, transposed).view(shape)
    bias = None if bias is None else bias.detach()
    return _LowRank.apply(x, weight.detach(), bias, A, B, scale, transposed).view(shape)


class Part(NamedTuple):
    """A change s B A of the rows from `start` to `end` of a layer's input."""

    start: int
    end: int
    A: Tensor
    B: Tensor
    scale: float


class _LowRankParts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool, spans: Any, *factors: Tensor
    ) -> Tensor:
        ctx.transposed, ctx.spans, ctx.shape = transposed, spans, x.shape
        rows = x.reshape(-1, x.shape[-1])
        y = F.linear(rows, weight.t() if transposed else weight, bias)
        for (start, end, scale), A, B in zip(spans, factors[::2], factors[1::2], strict=True):
            y[start:end].addmm_(rows[start:end] @ A.t(), B.t(), alpha=scale)
        ctx.save_for_backward(x, weight, *factors)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *factors = ctx.saved_tensors
        g, rows, need_x = gradient, x.reshape(-1, x.shape[-1]), ctx.needs_input_grad[0]
        gx = g @ (weight.t() if ctx.transposed else weight) if need_x else None
        out: list[Tensor | None] = []
        for i, (start, end, scale) in enumerate(ctx.spans):
            A, B = factors[2 * i], factors[2 * i + 1]
            need_A, need_B = ctx.needs_input_grad[5 + 2 * i], ctx.needs_input_grad[6 + 2 * i]
            own, part = g[start:end], rows[start:end]
            back = own @ B  # [N, r]
            if gx is not None:
                gx[start:end].addmm_(back, A, alpha=scale)
            out.append((back.t() @ part).mul_(scale) if need_A else None)
            out.append((own.t() @ (part @ A.t())).mul_(scale) if need_B else None)
        return gx if gx is None else gx.view(ctx.shape), None, None, None, None, *out


def low_rank_parts(
    x: Tensor, weight: Tensor, bias: Tensor | None, parts: Sequence[Part], transposed: bool = False
) -> Tensor:
    """`low_rank` of several changes, each of its own rows of x [..., in] (counted over all but the last dimension);
    rows in no part have W and b alone. Types must be the same.
    """
    shape = (*x.shape[:-1], weight.shape[int(transposed)])
    spans = tuple((p.start, p.end, p.scale) for p in parts)
    factors = [t for p in parts for t in (p.A, p.B)]
    bias = None if bias is None else bias.detach()
    return _LowRankParts.apply(x, weight.detach(), bias, transposed, spans, *factors).view(shape)
