"""Packed (padding-free) forwards of unmodified transformers models, through the library's own extension points.

`prepare_attention` registers an attention and a mask function and selects them; it keeps them only if the model gives
the same outputs packed as alone. A packed call is `model(input_ids [1, T], position_ids [1, T], use_cache=False,
**packed_kwargs(cu_seqlens))`. Any other call (padded, cached generation) goes to sdpa as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import logging

from tunewright.models.modes import evaluating
from tunewright.models.varlen import Pattern, attention_pairs, packed_attention, plain_attention

__all__ = [
    "NAME",
    "attention_pairs",
    "left_out",
    "packed_kwargs",
    "plain_attention",
    "prepare_attention",
    "rewriting",
    "watchable",
    "watching",
]

NAME = "tunewright_packed"
"""The name under which the functions are registered, and which `config._attn_implementation` then holds."""

LENGTHS = (7, 4)
"""Row lengths of the self-test."""

See = Callable[[Tensor, Tensor, Pattern], None]
"""Is told the queries [B, H, T, D], keys [B, K, T, D] and the pattern of one layer's attention."""

Rewrite = Callable[[nn.Module, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor | None]]
"""(attention module, keys [B, K, T, D], values, mask) -> what the queries read in their place."""

_watched: ContextVar[See | None] = ContextVar("tunewright_watched_attention", default=None)
_rewritten: ContextVar[Rewrite | None] = ContextVar("tunewright_rewritten_attention", default=None)
_seen: ContextVar[list[int | None] | None] = ContextVar("tunewright_packed_calls", default=None)


def packed_kwargs(cu_seqlens: Tensor) -> dict[str, Any]:
    """The keywords of a packed forward for row boundaries `cu_seqlens` [R+1] (int32)."""
    longest = int(cu_seqlens.diff().max())
    return {"cu_seq_lens_q": cu_seqlens, "cu_seq_lens_k": cu_seqlens, "max_length_q": longest, "max_length_k": longest}


class DeferredMask:
    """The [1, 1, T, T] mask that sdpa would get, made only if an attention call asks for it: a packed one never
    does.
    """

    def __init__(self, arguments: dict[str, Any]):
        self._arguments: dict[str, Any] | None = arguments
        self._mask: Tensor | None = None

    def make(self) -> Tensor | None:
        if self._arguments is not None:
            self._mask, self._arguments = sdpa_mask(**self._arguments), None
        return self._mask


def _mask(**arguments: Any) -> Any:
    """Mask function: sdpa's own, deferred for one unpadded sequence, where it may turn out to be packed."""
    padded = arguments.get("attention_mask") is not None
    if arguments["batch_size"] != 1 or padded or arguments.get("q_length", 1) == 1:
        return sdpa_mask(**arguments)
    return DeferredMask(arguments)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention function [1, H, T, D] -> [1, T, H, D]: rows alone where boundaries are given, sdpa otherwise."""
    cu_seqlens = kwargs.get("cu_seq_lens_q")
    see = _watched.get()
    if see is not None:
        ahead = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
        see(query, key, Pattern(ahead, kwargs.get("sliding_window"), scaling))
    rewrite = _rewritten.get()
    if rewrite is not None and cu_seqlens is not None:
        raise ValueError("what attention reads is rewritten for padded rows alone")
    if cu_seqlens is None:
        mask = attention_mask.make() if isinstance(attention_mask, DeferredMask) else attention_mask
        if rewrite is not None:
            key, value, mask = rewrite(module, key, value, mask)
        return sdpa_attention_forward(
            module, query, key, value, mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
    foreign = [n for n in ("softcap", "s_aux", "position_bias", "cache") if kwargs.get(n) is not None]
    if foreign or isinstance(attention_mask, Tensor) or query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise ValueError(
            f"packed attention takes one unpadded, uncached sequence of rows and no {', '.join(foreign) or 'mask'}"
        )
    seen = _seen.get()
    if seen is not None:
        seen.append(kwargs.get("sliding_window"))
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    pattern = Pattern(bool(causal), kwargs.get("sliding_window"), scaling)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return packed_attention(q, k, v, cu_seqlens, kwargs["max_length_q"], pattern, dropout)[None], None


def watchable(model: nn.Module) -> bool:
    """Whether a model's attention goes through the library's interface, so that `watching` sees it."""
    return isinstance(model, PreTrainedModel) and bool(model.is_backend_compatible())


@contextmanager
def watching(model: nn.Module, see: See) -> Iterator[None]:
    """Inside, `see` is told of the attention of each layer of each forward of `model`, in order.

    A model that does not pack calls our function (which is sdpa then) for the while. What is seen are queries and keys
    as they are multiplied, with their positions turned in: what a layer puts on top of their product (a cap, a bias,
    sinks) is not in them.
    """
    token = _watched.set(see)
    try:
        with _through_ours(model):
            yield
    finally:
        _watched.reset(token)


@contextmanager
def rewriting(model: nn.Module, rewrite: Rewrite) -> Iterator[None]:
    """Inside, the attention of each layer of each forward of `model` (`watchable`) reads what `rewrite` gives it.

    The mask is None (every key is seen), or one that sdpa takes, [B or 1, 1, T or 1, keys].
    """
    token = _rewritten.set(rewrite)
    try:
        with _through_ours(model):
            yield
    finally:
        _rewritten.reset(token)


@contextmanager
def _through_ours(model: nn.Module) -> Iterator[None]:
    """Inside, the model's attention goes through our function, whether it packs or not."""
    assert isinstance(model, PreTrainedModel)
    before = model.config._attn_implementation
    if before != NAME:
        AttentionInterface.register(NAME, _attention)
        AttentionMaskInterface.register(NAME, _mask)
        model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        if before != NAME:
            model.set_attn_implementation(before)


@contextmanager
def left_out() -> Iterator[None]:
    """Inside, code that is compiled calls the attention function as it is: it asks where rows end."""
    AttentionInterface.register(NAME, torch.compiler.disable(_attention))
    try:
        yield
    finally:
        AttentionInterface.register(NAME, _attention)


def prepare_attention(model: nn.Module) -> bool:
    """Make `model` take packed forwards; True when it does, False (and the model as it was) when it cannot.

    Decided by a forward of two short rows, packed and each alone, on the model's own device and weights: equal to
    rounding, with every layer's attention seen to go through the packed function. Global random state is untouched.
    """
    if (
        not isinstance(model, PreTrainedModel)
        or model.config.is_encoder_decoder
        or getattr(model, "main_input_name", "") != "input_ids"
    ):
        return False
    before = model.config._attn_implementation
    if before == NAME:
        return True
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
    with evaluating(model), _quiet(), torch.no_grad():
        try:
            rows = _rows(model)
            alone = [_output(model, r) for r in rows]
            model.set_attn_implementation(NAME)
            packs = model.config._attn_implementation == NAME and _agrees(model, rows, alone)
        except Exception:  # whatever a model does with keywords it does not know means that it cannot pack
            packs = False
        if not packs and model.config._attn_implementation != before:
            model.set_attn_implementation(before)
    return packs


def _agrees(model: PreTrainedModel, rows: list[Tensor], alone: list[Tensor]) -> bool:
    """Whether the rows packed give what they give alone, through the packed function and with the config's window."""
    positions = torch.cat([torch.arange(len(r), device=r.device) for r in rows])[None]
    ends = torch.tensor([0, *(len(r) for r in rows)], device=positions.device).cumsum(0).int()
    token = _seen.set([])
    try:
        packed = _output(model, torch.cat(rows), position_ids=positions, **packed_kwargs(ends))
        windows = _seen.get() or []
    finally:
        _seen.reset(token)
    config = model.config.get_text_config()
    layers = getattr(config, "num_hidden_layers", None)
    expected = torch.cat(alone)
    if packed.shape != expected.shape or not windows or (layers is not None and len(windows) != layers):
        return False
    if _windowed(config) and not any(windows):
        return False  # the model hides far keys by its mask alone, which a packed call does not make
    scale = expected.abs().max().clamp(min=1e-6)
    tolerance = 1e-4 if packed.dtype in (torch.float32, torch.float64) else 5e-2
    return bool((packed - expected).abs().max() <= tolerance * scale)


def _windowed(config: Any) -> bool:
    """Whether any layer sees only near keys."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return any(k != "full_attention" for k in kinds)
    return getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)


def _rows(model: PreTrainedModel) -> list[Tensor]:
    """Rows of different tokens, spread over the vocabulary; no padding token, which some models treat apart."""
    vocabulary = int(model.get_input_embeddings().weight.size(0))  # type: ignore[operator, union-attr]
    pad = getattr(model.config.get_text_config(), "pad_token_id", None)
    device = next(model.parameters()).device
    ids = [i * 7919 % vocabulary for i in range(3, 3 + 2 * sum(LENGTHS))]
    ids = [i for i in ids if i != pad][: sum(LENGTHS)]
    return list(torch.tensor(ids, device=device).split(LENGTHS))


def _output(model: PreTrainedModel, ids: Tensor, **kwargs: Any) -> Tensor:
    """The base model's last hidden states of one row of ids: [tokens, D]."""
    body = getattr(model, model.base_model_prefix, model)
    causal = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
    return body(input_ids=ids[None], **causal, **kwargs).last_hidden_state[0].float()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' warnings about attention kinds it cannot set off the terminal: the answer says it."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
