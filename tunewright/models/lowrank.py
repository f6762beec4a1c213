"""y = x W^T + b + s (x A^T) B^T for a frozen W: one pass that keeps only x for the backward (x A^T if A is frozen).

Shapes: x [..., in], W [out, in] (or [in, out] when `transposed`, as GPT-2's Conv1D stores it), A [r, in], B [out, r].

A frozen offset, s (B A - B0 A0), is the same with [A; A0] and [B, -B0] of rank 2r: two thin products more (r is about
3 % of the width), where a cached W - s B0 A0 would cost a second copy of every weight.
"""

from __future__ import annotations

from typing import Any

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
