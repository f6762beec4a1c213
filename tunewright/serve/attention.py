"""Attention of one step: tokens of many rows in one packed forward, each reading its own seat of the cache.

Registered as transformers' own extension point, around whatever the model had before: a forward outside of a step goes
there unchanged. Tokens lie as [1, T]: first one token of every row that is written, then runs of tokens of rows whose
prompts are being read. Shapes: H query heads, K key-value heads, D head size, L the longest row of a slab.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tunewright.errors import ModelError
from tunewright.serve.cache import Seat, Slab, grown

NAME = "tunewright_serve"
PLAIN = torch.zeros(1, 1, 1, 1)
"""A mask that stands for none: with four dimensions transformers makes no other."""

_step: ContextVar[Step | None] = ContextVar("tunewright_serve_step", default=None)


class _Written:
    """The rows of a slab that get one token: their tokens' places in the step, for each seat of the slab."""

    def __init__(self, slab: Slab, tokens: dict[int, int], device: torch.device):
        count = max(tokens) + 1
        self.slab, self.numbers = slab, torch.tensor(sorted(tokens), device=device)
        self.tokens = torch.tensor([tokens[n] for n in sorted(tokens)], device=device)
        self.asked = torch.tensor([tokens.get(n, 0) for n in range(count)], device=device)
        # a seat whose row is not written now reads its first position, and nobody reads what comes out
        at = torch.tensor([slab.seats[n].used if n in tokens else 0 for n in range(count)], device=device)
        self.places, self.longest = at[self.numbers], int(at.max()) + 1
        self.mask = grown(at, self.longest)[:, None, None]
        self.count = count


class Step:
    """Where each token of a forward stands. `written`: seats that get one token each, in the tokens' order; `read`:
    (seat, n) of those whose prompts are read, n tokens each, behind them. Their `used` is how many came before.
    """

    def __init__(self, written: Sequence[Seat], read: Sequence[tuple[Seat, int]], device: torch.device):
        by_slab: dict[int, tuple[Slab, dict[int, int]]] = {}
        for token, seat in enumerate(written):
            by_slab.setdefault(id(seat.slab), (seat.slab, {}))[1][seat.number] = token
        self.written = [_Written(slab, tokens, device) for slab, tokens in by_slab.values()]
        self.read, self.first = list(read), len(written)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """[T, H, D] for q [T, H, D], k and v [T, K, D]; keys and values go to their seats."""
        out = q.new_empty(*q.shape[:2], v.shape[-1])
        for rows in self.written:
            keys, values = rows.slab.layer(layer, k, v)
            keys[rows.numbers, :, rows.places] = k[rows.tokens]
            values[rows.numbers, :, rows.places] = v[rows.tokens]
            # query heads that share keys are told apart as if they were queries behind each other: nothing is repeated
            asked = q[rows.asked].unflatten(1, (k.shape[1], -1))
            seen = scaled_dot_product_attention(
                asked,
                keys[: rows.count, :, : rows.longest],
                values[: rows.count, :, : rows.longest],
                attn_mask=rows.mask,
                scale=scale,
            )
            out[rows.tokens] = seen.flatten(1, 2)[rows.numbers]
        at = self.first
        for seat, n in self.read:
            own, before = slice(at, at + n), seat.used
            keys, values = seat.slab.layer(layer, k, v)
            keys[seat.number, :, before : before + n] = k[own].transpose(0, 1)
            values[seat.number, :, before : before + n] = v[own].transpose(0, 1)
            mask = None if not before else torch.ones(n, before + n, dtype=torch.bool, device=q.device).tril(before)
            seen = scaled_dot_product_attention(
                q[own].transpose(0, 1)[None],
                keys[seat.number : seat.number + 1, :, : before + n],
                values[seat.number : seat.number + 1, :, : before + n],
                attn_mask=mask,
                is_causal=mask is None,
                scale=scale,
                enable_gqa=q.shape[1] != k.shape[1],
            )
            out[own] = seen[0].transpose(0, 1)
            at += n
        return out


def _attention(
    before: str, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **given: Any
) -> tuple[Tensor, Any]:
    """Attention function [1, H, T, D] -> [1, T, H, D]; `before` names the one for forwards that are no step."""
    step = _step.get()
    if step is None:
        plain: Any = ALL_ATTENTION_FUNCTIONS[before]
        return plain(module, query, key, value, attention_mask, **given)  # type: ignore[no-any-return]
    if foreign := [n for n in ("softcap", "s_aux", "position_bias", "sliding_window") if given.get(n) is not None]:
        raise ModelError(f"its attention has {', '.join(foreign)}, which no step has")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    layer: Any = module.layer_idx
    return step.attend(int(layer), q, k, v, given.get("scaling"))[None], None


def prepare(model: nn.Module) -> None:
    """Let a model's attention go through here. ModelError where it does not take the library's functions."""
    config: Any = model.config
    if config._attn_implementation.startswith(NAME):
        return
    if config._attn_implementation not in ALL_ATTENTION_FUNCTIONS.valid_keys():
        model.set_attn_implementation("sdpa")  # type: ignore[operator]
    before = config._attn_implementation
    name = f"{NAME}_{before}"
    if before in ALL_ATTENTION_FUNCTIONS.valid_keys():
        AttentionInterface.register(name, partial(_attention, before))
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[before])
        model.set_attn_implementation(name)  # type: ignore[operator]
    if config._attn_implementation != name:
        raise ModelError(
            f"{type(model).__name__} makes its attention itself, so that many rows cannot share a step",
            remedy="ask it with `tunewright chat`",
        )


@contextmanager
def stepping(step: Step) -> Iterator[None]:
    """Inside, the model's forward is this step."""
    token = _step.set(step)
    try:
        yield
    finally:
        _step.reset(token)
