"""A training step in pieces of a few tokens, that fit into what serving leaves (Oliaro et al. 2024, arXiv:2402.18789;
papers: flexllm).

Rows side by side are read chunk by chunk, [B, n] tokens at a time, each chunk attending to the keys and values of those
before it, which it takes as numbers of their own. Backwards the chunks come in the other order: a chunk's gradient is
that of its own losses and of its keys and values, which the chunks behind it have left:

    forward    c = 1 ... C     (log p_c, K_c, V_c) = model(x_c; K_<c, V_<c)
    backward   c = C ... 1     d loss_c, and dK_c, dV_c summed over the chunks behind; gives dK_<c, dV_<c

The sum is the gradient of the whole rows, to rounding. Padding stands behind a row's tokens, which never look there.
Keys and values that no trained tensor reaches get no gradient at all.

How long a piece takes is told by those before it (`Pace`): a chunk is as long as fits into the time that is left, and
its backward into a step's whole share. Differs from the paper in: nothing is compiled ahead of time and activations are
kept as torch keeps them, so that memory is not less; a piece runs between two steps of the engine and not in one batch
with them; chunks are cut along tokens alone, not along layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from tunewright.models.arguments import cache_argument
from tunewright.serve.errors import ApiError

PAPERS = ("flexllm",)
LEAST, MOST = 8, 512
"""Tokens of a row in one chunk."""
MARGIN = 1.25
"""A piece is taken to need so many times what one like it took."""
Loss = Callable[[Tensor, Mapping[str, Tensor]], Tensor]


class Pace:
    """Seconds that a token of a chunk takes, forwards and backwards, with what a piece costs by itself in it."""

    def __init__(self) -> None:
        self.forward: float | None = None
        self.backward: float | None = None

    def note(self, what: str, tokens: int, seconds: float) -> None:
        """A piece of so many tokens took so long; a slow one is remembered for a while."""
        known, now = getattr(self, what), seconds / tokens
        setattr(self, what, now if known is None else max(now, 0.8 * known + 0.2 * now))

    def room(self, what: str, seconds: float) -> int:
        """Tokens that fit; 0 where it is not known how long one takes."""
        known = getattr(self, what)
        return 0 if known is None else int(seconds / (MARGIN * known))


@dataclass
class _Chunk:
    """What a chunk's backward starts from: its loss, its keys and values, and those before it as it was given them."""

    start: int
    loss: Tensor
    own: list[tuple[Tensor, Tensor]]
    before: list[tuple[Tensor, Tensor]]


class Pieces:
    """The gradient of rows' losses, a piece at a time. `tokens` [B, T] (0 behind a row's end), `targets` [B, T];
    `given` holds what the loss reads of each row, [T_i] by name.
    """

    def __init__(
        self,
        model: Any,
        tokens: Tensor,
        targets: Tensor,
        lengths: Sequence[int],
        given: Sequence[Mapping[str, Tensor]],
        loss: Loss,
        pace: Pace,
    ):
        self.model, self.tokens, self.targets, self.lengths = model, tokens, targets, lengths
        self.given, self.loss, self.pace = given, loss, pace
        self.at, self.read = 0, torch.zeros(tokens.shape)
        self._open: list[_Chunk] = []
        self._gradients: list[tuple[Tensor, Tensor]] = []
        self._states: list[tuple[Tensor, Tensor]] = []

    @property
    def done(self) -> bool:
        return self.at == self.tokens.shape[1] and not self._open

    def fits(self, seconds: float, share: float) -> bool:
        """Whether a piece fits into what is left; `share`: what a step may take in all."""
        if self.at < self.tokens.shape[1]:
            return self._size(seconds, share) >= min(LEAST, self.tokens.shape[1] - self.at)
        last = self._open[-1]
        return self.pace.room("backward", seconds) >= len(self.tokens) * self._length(last)

    def piece(self, seconds: float, share: float) -> None:
        """Do one: a chunk forwards, as long as fits (LEAST tokens where nothing does), or the last one backwards."""
        began = time.monotonic()
        if self.at < self.tokens.shape[1]:
            n = min(max(LEAST, self._size(seconds, share)), MOST, self.tokens.shape[1] - self.at)
            self._forward(n)
            self.pace.note("forward", n * len(self.tokens), time.monotonic() - began)
        else:
            chunk = self._open.pop()
            n = self._length(chunk)
            self._backward(chunk, n)
            self.pace.note("backward", n * len(self.tokens), time.monotonic() - began)

    def _size(self, seconds: float, share: float) -> int:
        forward, backward = self.pace.room("forward", seconds), self.pace.room("backward", share)
        fitting = forward if self.pace.backward is None else min(forward, backward)
        return fitting // len(self.tokens)

    def _length(self, last: _Chunk) -> int:
        """Tokens of the last chunk that is not gone backwards through."""
        return self._states[0][0].shape[2] - last.start

    def _forward(self, n: int) -> None:
        start, end = self.at, self.at + n
        before = []
        for (k, v), (dk, _) in zip(self._states, self._gradients, strict=True):
            reaches = dk.numel() > 0
            before.append((k.detach().requires_grad_(reaches), v.detach().requires_grad_(reaches)))
        cache: Any = DynamicCache()
        for i, (k, v) in enumerate(before):
            cache.update(k, v, i)
        more: dict[str, Any] = {str(cache_argument(self.model)): cache}
        positions = torch.arange(start, end, device=self.tokens.device)[None].expand(len(self.tokens), -1)
        out = self.model(input_ids=self.tokens[:, start:end], position_ids=positions, use_cache=True, **more)
        shares = out.logits.float().log_softmax(-1).gather(-1, self.targets[:, start:end, None])[..., 0]
        losses = []
        for i, length in enumerate(self.lengths):
            if length > start:
                some = {name: t[start:end] for name, t in self.given[i].items()}
                losses.append(self.loss(shares[i, : length - start], some))
        loss = torch.stack(losses).sum()
        if not bool(torch.isfinite(loss)):
            raise ApiError(400, "The loss is not finite.", param="loss_fn_inputs")
        self.read[:, start:end] = shares.detach().cpu()
        states = [(layer.keys, layer.values) for layer in cache.layers]
        own = [(k[:, :, start:], v[:, :, start:]) for k, v in states]
        self._open.append(_Chunk(start, loss, own, before))
        self._states = [(k.detach(), v.detach()) for k, v in states]
        self._gradients = [
            (torch.zeros_like(k), torch.zeros_like(v)) if k_own.requires_grad or v_own.requires_grad else (k[:0], v[:0])
            for (k, v), (k_own, v_own) in zip(self._states, own, strict=True)
        ]
        self.at = end

    def _backward(self, chunk: _Chunk, n: int) -> None:
        start, end = chunk.start, chunk.start + n
        roots: list[tuple[Tensor, Tensor]] = []
        if chunk.loss.requires_grad:
            roots.append((chunk.loss, torch.ones_like(chunk.loss)))
        for own, gradients in zip(chunk.own, self._gradients, strict=True):
            for t, g in zip(own, gradients, strict=True):
                if t.requires_grad and g.numel():
                    roots.append((t, g[:, :, start:end]))
        if roots:
            torch.autograd.backward([t for t, _ in roots], [g for _, g in roots])
        for before, gradients in zip(chunk.before, self._gradients, strict=False):
            for t, g in zip(before, gradients, strict=True):
                if t.grad is not None:
                    g[:, :, :start] += t.grad
        self._states = [(k[:, :, :start], v[:, :, :start]) for k, v in self._states]
