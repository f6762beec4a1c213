"""Prompts read once: their common start once for all of them, the rest in batches; the keys and values are kept.

Shapes: B rows, H key-value heads, L positions so far, D head size, V vocabulary. A row's positions lie
[common start | padding | rest of the prompt | what follows]; padding is masked and position ids skip it, so every row
is computed as it would be alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from tunewright.contract.batch import Row
from tunewright.measure._mode import device_of, logits_of
from tunewright.models.arguments import cache_argument, takes
from tunewright.models.context import (
    PADDING,
    Present,
    Rows,
    ids_and_sources,
    reading,
    reads_rows,
    rows_of_prompts,
)
from tunewright.models.head import head_log_probs
from tunewright.tasks._causal import has_plain_head


class _RoomyLayer(DynamicLayer):
    """A cache layer with room for what comes: appending writes in place, where the plain one copies all it has."""

    def __init__(self, keys: Tensor, values: Tensor, room: int):
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._store(keys, values, room)

    def _store(self, keys: Tensor, values: Tensor, room: int) -> None:
        b, h, used, _ = keys.shape
        self._k, self._v = (
            keys.new_empty(b, h, used + room, keys.shape[-1]),
            values.new_empty(b, h, used + room, values.shape[-1]),
        )
        self._k[:, :, :used], self._v[:, :, :used] = keys, values
        self._view(used)

    def _view(self, used: int) -> tuple[Tensor, Tensor]:
        self._used = used
        keys, values = self._k[:, :, :used], self._v[:, :, :used]
        self.keys, self.values = keys, values
        return keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        used, n = self._used, key_states.shape[2]
        if used + n > self._k.shape[2]:
            self._store(self._k[:, :, :used], self._v[:, :, :used], n)
        self._k[:, :, used : used + n], self._v[:, :, used : used + n] = key_states, value_states
        return self._view(used + n)

    def batch_select_indices(self, indices: Tensor) -> None:
        self._k, self._v = self._k[indices], self._v[indices]
        self._view(self._used)


def _from_layers(layers: Sequence[DynamicLayer]) -> DynamicCache:
    cache = DynamicCache()
    cache.layers = list(layers)
    return cache


def _states(cache: DynamicCache) -> Iterator[tuple[Tensor, Tensor]]:
    """Keys and values [B, H, L, D] of each layer."""
    for layer in cache.layers:
        assert isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None
        yield layer.keys, layer.values


def _widen(cache: DynamicCache, rows: int, room: int) -> DynamicCache:
    """A cache of one row as the start of `rows` rows, with room for `room` more positions."""
    return _from_layers(
        [_RoomyLayer(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1), room) for k, v in _states(cache)]
    )


def select(cache: DynamicCache, rows: Tensor, room: int) -> DynamicCache:
    """A copy of some rows of a cache (repeats allowed), with room for `room` more positions."""
    return _from_layers([_RoomyLayer(k[rows], v[rows], room) for k, v in _states(cache)])


def common_start(prompts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all prompts share, leaving each at least one of its own."""
    if not prompts:
        return 0
    low, high = min(map(list, prompts)), max(map(list, prompts))
    n = min(len(p) for p in prompts) - 1
    return next((i for i in range(n) if low[i] != high[i]), max(n, 0))


def batches_by_length(lengths: Sequence[int], tokens: int, rows: int) -> Iterator[list[int]]:
    """Indices sorted by length, in batches of at most `rows` rows and `tokens` padded tokens (one row at least)."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and (len(batch) >= rows or (len(batch) + 1) * lengths[i] > tokens):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


@dataclass
class Read:
    """Prompts of one batch after reading. `indices` [B] into the prompts; `logits` [B, V] of the next token (fp32);
    `mask` [B, L] (None: no padding) and `lengths` [B] tokens read; `cache` holds L positions; `rows` [B] say what the
    prompts are to deltas that read more than tokens."""

    indices: list[int]
    cache: DynamicCache
    mask: Tensor | None
    lengths: Tensor
    logits: Tensor
    rows: Rows

    def select_rows(self, rows: Tensor) -> None:
        """Let the other rows go."""
        self.indices = [self.indices[i] for i in rows.tolist()]
        self.cache.batch_select_indices(rows)
        self.mask = None if self.mask is None else self.mask[rows]
        self.lengths, self.logits = self.lengths[rows], self.logits[rows]
        self.rows = self.rows.select(rows)


def caches_plainly(model: PreTrainedModel) -> bool:
    """Whether the model is a causal decoder whose cache is one growing layer of keys and values per block.

    Sliding windows, linear attention, encoder-decoders and models without position ids are not: their callers take
    the library's own generation or whole forwards instead.
    """
    config = model.config
    if (
        getattr(config, "is_encoder_decoder", False)
        or cache_argument(model) is None
        or not takes(model, "position_ids")
    ):
        return False
    try:
        layers = DynamicCache(config=config).layers
    except (AttributeError, ValueError, KeyError):
        return False
    return all(type(layer) is DynamicLayer for layer in layers)


def forward(
    model: PreTrainedModel,
    tokens: Tensor,
    positions: Tensor,
    cache: DynamicCache,
    mask: Tensor | None,
    keep: int,
    rows: Rows,
) -> Tensor:
    """Logits [B, keep or all, V] (fp32) of `tokens` [B, n] after the cache, which grows by n. `keep` 0: all.

    `rows` are those that the tokens belong to, one of them each.
    """
    more: dict[str, Any] = {"logits_to_keep": keep} if takes(model, "logits_to_keep") else {}
    name = cache_argument(model)
    assert name is not None  # the model `caches_plainly`
    with reading(_present(tokens, positions, mask, rows)):
        out = model(
            input_ids=tokens, position_ids=positions, attention_mask=mask, use_cache=True, **{name: cache}, **more
        )
    return logits_of(out)[:, -keep:].float()


def _present(tokens: Tensor, positions: Tensor, mask: Tensor | None, rows: Rows) -> Present:
    """Whose token stands where, of tokens [B, n] at the end of what their rows have read."""
    row = torch.arange(len(tokens), device=tokens.device)[:, None].expand(tokens.shape)
    place = positions.expand(tokens.shape)
    if mask is not None:
        place = place.masked_fill(mask[:, -tokens.shape[1] :] == 0, PADDING)
    return Present(rows.to(tokens.device), row, place)


def log_probs_at(
    model: PreTrainedModel,
    tokens: Tensor,
    positions: Tensor,
    cache: DynamicCache,
    mask: Tensor | None,
    labels: Tensor,
    rows: Rows,
) -> Tensor:
    """Log-probabilities [S] (fp32) of those of `labels` [B, n] that are not negative, each after the token at its place
    of `tokens` [B, n]; the cache grows by n. A plain head runs on the S places alone, in pieces.
    """
    at = labels >= 0
    with reading(_present(tokens, positions, mask, rows)):
        plain = has_plain_head(model, {"input_ids": tokens}) and cache_argument(model.base_model) is not None
    if not plain:
        logits = forward(model, tokens, positions, cache, mask, 0, rows)[at]
        return torch.log_softmax(logits, -1).gather(-1, labels[at][:, None])[:, 0]
    more: dict[str, Any] = {str(cache_argument(model.base_model)): cache}
    with reading(_present(tokens, positions, mask, rows)):
        out = model.base_model(input_ids=tokens, position_ids=positions, attention_mask=mask, use_cache=True, **more)
    return head_log_probs(out.last_hidden_state[at], model.get_output_embeddings(), labels[at])


def read(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    room: int,
    batch_tokens: int = 2048,
    batch_rows: int = 64,
    asked: Sequence[Row] = (),
) -> Iterator[Read]:
    """Read prompts and yield them in batches, shortest first. `room`: positions that will be appended to each.

    The model must be in eval mode and `caches_plainly`; every prompt needs at least one token. `asked`: the rows that
    the prompts belong to, where there are any. With a delta that reads what its rows are, nothing is shared of them.
    """
    device = device_of(model)
    rows = rows_of_prompts([len(p) for p in prompts], *ids_and_sources(asked))
    start = 0 if reads_rows(model) else common_start(prompts)
    shared = DynamicCache(config=model.config)
    if start:
        tokens = torch.tensor([list(prompts[0][:start])], device=device)
        forward(model, tokens, torch.arange(start, device=device)[None], shared, None, 1, rows)
    for batch in batches_by_length([len(p) - start for p in prompts], batch_tokens, batch_rows):
        rest = [list(prompts[i][start:]) for i in batch]
        width = max(map(len, rest))
        tokens = torch.tensor([[0] * (width - len(r)) + r for r in rest], device=device)
        pads = torch.tensor([width - len(r) for r in rest], device=device)
        places = torch.arange(width, device=device)[None] - pads[:, None]
        mask = None
        if pads.any():
            mask = torch.ones(len(rest), start + width, dtype=torch.long, device=device)
            mask[:, start:] = (places >= 0).long()
        cache = _widen(shared, len(rest), width + room) if start else DynamicCache(config=model.config)
        some = rows.select(torch.tensor(batch))
        logits = forward(model, tokens, start + places.clamp(min=0), cache, mask, 1, some)[:, 0]
        if not start:
            cache = _from_layers([_RoomyLayer(k, v, room) for k, v in _states(cache)])
        yield Read(batch, cache, mask, start + width - pads, logits, some)
