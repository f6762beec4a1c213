"""Log-probabilities of targets through the head, never keeping the logits.

Shapes: S targets, D hidden size, V vocabulary. A chunk of [chunk, V] logits is made, its log-normaliser and its
target's logit are taken, and it is dropped. An objective may weight every target by anything, also by the probability
itself, so the backward must know each target's own gradient: the logits are made again chunk by chunk from the kept
hidden states and normalisers (one product more than keeping them, 3 instead of 2 where the head is frozen).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK_BYTES = 16 << 20
"""Size of a chunk's fp32 logits where no chunk is given (measured: larger ones leave the cache, smaller ones starve)."""


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(hidden, weight, bias).float() if hidden.dtype != torch.float64 else F.linear(hidden, weight, bias)


class _HeadLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk: int) -> Tensor:
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        value = torch.empty(len(targets), dtype=wide, device=hidden.device)
        normaliser = torch.empty_like(value)
        for s in range(0, len(targets), chunk):
            z, t = _logits(hidden[s : s + chunk], weight, bias), targets[s : s + chunk]
            picked = z.gather(1, t[:, None])[:, 0]
            top = z.amax(1)
            total = z.sub_(top[:, None]).exp_().sum(1)
            normaliser[s : s + chunk] = top + total.log()
            value[s : s + chunk] = picked - normaliser[s : s + chunk]
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser)
        ctx.chunk = chunk
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normaliser = ctx.saved_tensors
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        gh = torch.empty_like(hidden) if need_hidden else None
        gw = torch.zeros_like(weight) if need_weight else None
        gb = torch.zeros_like(bias) if need_bias else None
        for s in range(0, len(targets), ctx.chunk):
            h, t, g = hidden[s : s + ctx.chunk], targets[s : s + ctx.chunk], gradient[s : s + ctx.chunk, None]
            # d value / d logits = onehot - softmax
            d = _logits(h, weight, bias).sub_(normaliser[s : s + ctx.chunk, None]).exp_().mul_(-g)
            d.scatter_add_(1, t[:, None], g.to(d.dtype))
            d = d.to(h.dtype)
            if gh is not None:
                gh[s : s + ctx.chunk] = d @ weight
            if gw is not None:
                gw.addmm_(d.t(), h)
            if gb is not None:
                gb += d.sum(0)
        return gh, gw, gb, None, None


def _plain_head(head: nn.Module) -> bool:
    """Whether the head is y = x W^T + b and nothing else, so that its weight may be used without its forward."""
    hooked = head._forward_hooks or head._forward_pre_hooks
    return isinstance(head, nn.Linear) and type(head).forward is nn.Linear.forward and not hooked


def head_log_probs(hidden: Tensor, head: nn.Module, targets: Tensor, chunk: int | None = None, *, second_order: bool = False) -> Tensor:
    """log p(targets) [S] in fp32 for hidden states [S, D], differentiable for `hidden` and the head's parameters.

    `chunk`: targets whose logits exist at once (none: chosen by size). A head that is more than a linear (a delta on
    it, hooks) runs its own forward, as does `second_order`; its logits are then kept until the backward.
    """
    if second_order or not _plain_head(head):
        logits = head(hidden)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return torch.log_softmax(wide, -1).gather(1, targets[:, None])[:, 0]
    weight, bias = head.weight, head.bias
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)  # type: ignore[operator]
        bias = None if bias is None else bias.to(dtype)  # type: ignore[operator]
    size = chunk or max(1, CHUNK_BYTES // (4 * weight.shape[0]))  # type: ignore[index, union-attr]
    with torch.autocast(hidden.device.type, enabled=False):
        return _HeadLogProbs.apply(hidden, weight, bias, targets, size)
