"""Log-probabilities of labels through the head, never keeping the logits.

Shapes: S labels, D hidden size, V vocabulary. A chunk of [chunk, V] logits is made, its log-normaliser and its
target's logit are taken, and it is dropped. An objective may weight every target by anything, also by the probability
itself, so the backward needs each target's own gradient. With a frozen head that is one row of D numbers per target,
made while the chunk is there: two products in all. A trained head's gradient mixes labels by their weights, which
are known in the backward only: there the logits are made again from the kept hidden states and normalisers.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunewright.models.flops import book

CHUNK_BYTES = 16 << 20
"""Size of a chunk's fp32 logits where no chunk is given (512 labels of a vocabulary of 8,192; not tuned)."""


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(hidden, weight, bias).to(torch.promote_types(hidden.dtype, torch.float32))


class _HeadLogProbs(torch.autograd.Function):
    """hidden [S, D], weight [V, D], bias [V] or None, labels [S] -> [S]. `differentiable`: a backward may follow."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk: int, differentiable: bool
    ) -> Tensor:
        need_hidden, need_weight, need_bias = (differentiable and n for n in ctx.needs_input_grad[:3])
        early = need_hidden and not (need_weight or need_bias)
        value = torch.empty(len(labels), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        normaliser = torch.empty_like(value)
        own = torch.empty_like(hidden) if early else None
        for s in range(0, len(labels), chunk):
            part, t = slice(s, s + chunk), labels[s : s + chunk, None]
            z = _logits(hidden[part], weight, bias)
            normaliser[part] = torch.logsumexp(z, 1)
            value[part] = z.gather(1, t)[:, 0] - normaliser[part]
            if own is not None:
                own[part] = _logit_gradient(z, normaliser[part], t).to(hidden.dtype) @ weight
        if own is not None:
            ctx.save_for_backward(own)
        elif differentiable:
            ctx.save_for_backward(hidden, weight, bias, labels, normaliser)
        ctx.chunk, ctx.early = chunk, early
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.early:
            (own,) = ctx.saved_tensors
            return own * gradient[:, None].to(own.dtype), None, None, None, None, None
        hidden, weight, bias, labels, normaliser = ctx.saved_tensors
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        gh = torch.empty_like(hidden) if need_hidden else None
        gw = torch.zeros_like(weight) if need_weight else None
        gb = torch.zeros_like(bias) if need_bias else None
        for s in range(0, len(labels), ctx.chunk):
            part = slice(s, s + ctx.chunk)
            h = hidden[part]
            d = _logit_gradient(_logits(h, weight, bias), normaliser[part], labels[part, None])
            d = d.mul_(gradient[part, None]).to(h.dtype)
            if gh is not None:
                gh[part] = d @ weight
            if gw is not None:
                gw.addmm_(d.t(), h)
            if gb is not None:
                gb += d.sum(0)
        return gh, gw, gb, None, None, None


def _logit_gradient(z: Tensor, normaliser: Tensor, t: Tensor) -> Tensor:
    """d log p(t) / d logits = onehot(t) - softmax, in the place of the logits z [n, V]; t [n, 1]."""
    d = z.sub_(normaliser[:, None]).exp_().neg_()
    return d.scatter_add_(1, t, torch.ones_like(t, dtype=d.dtype))


def _plain_head(head: nn.Module) -> bool:
    """Whether the head is y = x W^T + b and nothing else, so that its weight may be used without its forward."""
    hooked = head._forward_hooks or head._forward_pre_hooks
    return isinstance(head, nn.Linear) and type(head).forward is nn.Linear.forward and not hooked


def head_log_probs(
    hidden: Tensor, head: nn.Module, labels: Tensor, chunk: int | None = None, *, second_order: bool = False
) -> Tensor:
    """log p(labels) [S] in fp32 for hidden states [S, D], differentiable for `hidden` and the head's parameters.

    `chunk`: labels whose logits exist at once (none: chosen by size). A head that is more than a linear (a delta on
    it, hooks) runs its own forward, as does `second_order`; its logits are then kept until the backward.
    """
    if second_order or not _plain_head(head):
        logits = head(hidden)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return torch.log_softmax(wide, -1).gather(1, labels[:, None])[:, 0]
    weight, bias = head.weight, head.bias
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)  # type: ignore[operator]
        bias = None if bias is None else bias.to(dtype)  # type: ignore[operator]
    size = chunk or max(1, CHUNK_BYTES // (4 * weight.shape[0]))  # type: ignore[index, union-attr]
    with torch.autocast(hidden.device.type, enabled=False):
        value: Tensor = _HeadLogProbs.apply(hidden, weight, bias, labels, size, torch.is_grad_enabled())
    _book(value, hidden, weight)  # type: ignore[arg-type]
    return value


def _book(value: Tensor, hidden: Tensor, weight: Tensor) -> None:
    """Count the products: a frozen head's gradient is made in the forward, a trained one's logits are made twice."""
    once = 2.0 * hidden.shape[0] * weight.numel()
    if not value.requires_grad:
        book(once, 0.0, value)
    elif not weight.requires_grad:
        book(2 * once, 0.0, value)
    else:
        book(once, once * (2 + hidden.requires_grad), value)
