"""Attention over rows packed side by side, each row on its own: what a packed forward computes on any device.

Shapes: T tokens of all rows, H query heads, K key/value heads (K divides H), D head size. Work and memory grow with
the sum of squared row lengths (`attention_pairs`); no mask of T x T is ever made.

A long row goes through scaled_dot_product_attention alone; short rows of like length (where a kernel's start costs more
than its work) go together as one padded group: 1.05-1.1 times the speed at 20-40 tokens per row on 2 CPU cores, 1.1-1.4
times with threads that do not spin (forward and backward; an earlier form of this file, same grouping). On a GPU in
half precision flash-attn, where it is installed, or torch's own variable-length kernel takes all rows at once. Tried
and left out: batched matrix products over blocks of queries, 1.0-1.2 times the CPU flash kernel's speed at 100-500
tokens where threads spin, 0.65-0.85 times where they sleep between products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SHORT_ROW = 64
"""Rows up to this many tokens share padded groups; longer ones keep a kernel busy alone (at 60-140 tokens the
flash kernel alone was the faster one, at 20-40 the group; the place between was not searched)."""
PADDING = 1.6
"""A padded group may hold at most this many times its real scores (one value tried: two groups for 20-40 tokens)."""

_plain: ContextVar[bool] = ContextVar("tunewright_plain_attention", default=False)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Inside, packed attention is built of plain operations only, so that gradients of gradients exist."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def row_lengths(cu_seqlens: Tensor) -> tuple[int, ...]:
    """Lengths of the rows between the boundaries `cu_seqlens` [R+1]."""
    return tuple(b - a for a, b in pairwise(cu_seqlens.tolist()))


def attention_pairs(cu_seqlens: Tensor) -> int:
    """Pairs of a query and a key of the same row: the sum of squared row lengths, which attention work grows with."""
    return sum(n * n for n in row_lengths(cu_seqlens))


@dataclass(frozen=True)
class Pattern:
    """Which keys a query sees: not those behind it if `causal`, only the nearest if `window` is given (a query and
    the window - 1 before it, and as many after it without causality). `scale` multiplies the scores."""

    causal: bool
    window: int | None
    scale: float | None

    def visible(self, n: int) -> Tensor:
        """[n, n], True where a query (row) sees a key (column)."""
        ahead = torch.arange(n) - torch.arange(n)[:, None]
        reach = n if self.window is None else self.window
        return (ahead > -reach) & (ahead < (1 if self.causal else reach))


@dataclass(frozen=True)
class Groups:
    """How packed rows are laid out: `members` are the lengths of the rows of each group, padded to the longest of it.

    `take` [P] is the packed token at each place of that layout (padding repeats a row's last token), `place` [T] the
    place of each packed token, `empty` the places that are padding; all None where every row stands alone in order.
    """

    members: tuple[tuple[int, ...], ...]
    take: Tensor | None = None
    place: Tensor | None = None
    empty: Tensor | None = None

    @property
    def sizes(self) -> list[int]:
        return [len(g) * max(g) for g in self.members]

    @property
    def pairs(self) -> int:
        """Pairs that are scored, padding included."""
        return sum(len(g) * max(g) ** 2 for g in self.members)


@lru_cache(maxsize=256)
def plan_groups(lengths: tuple[int, ...]) -> Groups:
    """Lay packed rows out (see `Groups` and the constants above). Rows of length 0 are left out."""
    order = sorted((i for i, n in enumerate(lengths) if n), key=lambda i: -lengths[i])
    groups: list[list[int]] = []
    real = 0
    for i in order:
        n = lengths[i]
        longest = lengths[groups[-1][0]] if groups else n
        if groups and longest <= SHORT_ROW and (len(groups[-1]) + 1) * longest**2 <= PADDING * (real + n * n):
            groups[-1].append(i)
            real += n * n
        else:
            groups.append([i])
            real = n * n
    if len(groups) == len(order):
        return Groups(tuple((n,) for n in lengths if n))
    starts = torch.tensor((0, *lengths)).cumsum(0)
    spans = [(i, lengths[g[0]]) for g in groups for i in g]
    take = torch.cat([starts[i] + torch.arange(room).clamp(max=lengths[i] - 1) for i, room in spans])
    empty = torch.cat([torch.arange(room) >= lengths[i] for i, room in spans])
    place = torch.empty(sum(lengths), dtype=torch.long)
    place[take[~empty]] = (~empty).nonzero()[:, 0]
    return Groups(tuple(tuple(lengths[i] for i in g) for g in groups), take, place, empty.nonzero()[:, 0])


class _Arrange(torch.autograd.Function):
    """Rows of x [., C] picked by `take`; the gradient is picked back by `place`, and is zero at the rows `empty`.

    Right where each row of x stands at one place and padding repeats rows: no slow scattered sum is needed then.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, take: Tensor, place: Tensor, empty: Tensor | None) -> Tensor:
        ctx.place, ctx.empty = place, empty
        return x.index_select(0, take)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        g = gradient.index_select(0, ctx.place)
        return (g if ctx.empty is None else g.index_fill(0, ctx.empty, 0.0)), None, None, None


def _group_attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], pattern: Pattern, dropout: float
) -> Tensor:
    """Rows of one group, each padded at its end to L: q [rows * L, H, D], k, v [rows * L, K, D] -> [rows * L, H, D].

    With causality no real query sees the padding behind it; without, padded keys are masked.
    """
    rows, longest = len(lengths), max(lengths)
    a, b, c = (x.unflatten(0, (rows, longest)).transpose(1, 2) for x in (q, k, v))
    mask = None
    if pattern.window is not None and longest > pattern.window:
        mask = pattern.visible(longest)[None, None]
    if not pattern.causal and min(lengths) < longest:
        real = (torch.arange(longest) < torch.tensor(lengths)[:, None])[:, None, None]
        mask = real if mask is None else mask & real
    if mask is not None:
        mask = mask.to(q.device)
    out = F.scaled_dot_product_attention(
        a,
        b,
        c,
        mask,
        dropout,
        pattern.causal and mask is None,
        scale=pattern.scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out.transpose(1, 2).flatten(0, 1)


def grouped_attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], pattern: Pattern, dropout: float = 0.0
) -> Tensor:
    """Attention of packed rows by scaled_dot_product_attention over groups, on any device: [T, H, D]."""
    plan = plan_groups(lengths)
    parts = [q, k, v]
    if plan.take is not None and plan.place is not None and plan.empty is not None:
        take, place, empty = (x.to(q.device) for x in (plan.take, plan.place, plan.empty))
        parts = [_Arrange.apply(x.flatten(1), take, place, None).unflatten(1, x.shape[1:]) for x in parts]
    out = [
        _group_attention(a, b, c, g, pattern, dropout)
        for g, a, b, c in zip(plan.members, *(x.split(plan.sizes) for x in parts), strict=True)
    ]
    packed = out[0] if len(out) == 1 else torch.cat(out)
    if plan.take is None:
        return packed
    return _Arrange.apply(packed.flatten(1), place, take, empty).unflatten(1, packed.shape[1:])


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, longest: int, pattern: Pattern, dropout: float = 0.0
) -> Tensor:
    """Attention of packed rows, each alone: q [T, H, D], k and v [T, K, D], boundaries [R+1] -> [T, H, D]."""
    if _plain.get():
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return grouped_attention(q, k, v, row_lengths(cu_seqlens), pattern, dropout)
    if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16):
        return _cuda_attention(q, k, v, cu_seqlens, longest, pattern, dropout)
    return grouped_attention(q, k, v, row_lengths(cu_seqlens), pattern, dropout)


def _cuda_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, longest: int, pattern: Pattern, dropout: float
) -> Tensor:
    """flash-attn where it is installed, else torch's own variable-length kernel (which has no dropout)."""
    reach = -1 if pattern.window is None else pattern.window - 1
    window = (reach, 0 if pattern.causal else reach)
    if find_spec("flash_attn"):
        return import_module("flash_attn").flash_attn_varlen_func(
            q,
            k,
            v,
            cu_seqlens,
            cu_seqlens,
            longest,
            longest,
            dropout_p=dropout,
            softmax_scale=pattern.scale,
            causal=pattern.causal,
            window_size=window,
        )
    if dropout:
        return grouped_attention(q, k, v, row_lengths(cu_seqlens), pattern, dropout)
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn(  # type: ignore[return-value]
        q,
        k,
        v,
        cu_seqlens,
        cu_seqlens,
        longest,
        longest,
        scale=pattern.scale,
        window_size=window,
        enable_gqa=q.shape[1] != k.shape[1],
    )
