"""Text that a causal model writes itself: temperature 1, nothing cut off. Drift is measured on what the base wrote.

A sequence starts with conditioning tokens (an empty user turn in the chat template, or the start-of-text token), which
are not scored, and goes on with at most `max_tokens` sampled ones; the end token, once drawn, is the last.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunewright.contract.records import RowProblem
from tunewright.errors import ModelError
from tunewright.measure import _kv
from tunewright.measure._mode import device_of, logits_of, measuring
from tunewright.measure.generate import stop_ids
from tunewright.models.context import reading, rows_of_prompts, whole
from tunewright.tasks._dialect import dialect_of
from tunewright.tasks._render import render
from tunewright.tasks._segments import ids_of


@dataclass(frozen=True)
class Sequences:
    """Sampled token ids; the first `conditioning` of each were given and are not scored."""

    ids: list[list[int]]
    conditioning: int

    def first(self, n: int, max_tokens: int) -> Sequences:
        """The first `n` of them, with at most `max_tokens` sampled tokens each."""
        return Sequences([ids[: self.conditioning + max_tokens] for ids in self.ids[:n]], self.conditioning)


def conditioning_ids(tokenizer: Any) -> list[int]:
    """What a sample starts from: the chat template's empty user turn, else the start token, else the end token.

    ModelError when the tokenizer has none of them.
    """
    if getattr(tokenizer, "chat_template", None):
        with suppress(RowProblem):  # a template that takes no empty turn: as without one
            text = render(tokenizer, dialect_of(tokenizer).write([{"role": "user", "content": ""}]), prompt=True)
            return ids_of(tokenizer, text)
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise ModelError(
            "the tokenizer has no chat template, start or end token to sample from",
            remedy='set "bos_token" in tokenizer_config.json',
        )
    return [start]


def sample_sequences(
    model: Any, tokenizer: Any, n: int, max_tokens: int, seed: int, *, batch_rows: int = 64
) -> list[list[int]]:
    """Sample `n` sequences from a causal model, each `conditioning_ids(tokenizer)` and at most `max_tokens` more.

    Every token is drawn from the whole softmax by a number fixed by (seed, sequence, place), so batching changes
    nothing but rounding; global random state is not used. A model with a short context gives shorter sequences.
    """
    prefix = conditioning_ids(tokenizer)
    room = min(max_tokens, _context(model) - len(prefix))
    if room < 1:
        raise ModelError(
            f"the model's context of {_context(model)} tokens is filled by the chat template alone",
            remedy="use a model with a longer context",
        )
    draws = torch.rand(n, max_tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ends = torch.tensor(stop_ids(model, tokenizer), dtype=torch.long)
    written: list[list[int]] = []
    with measuring(model):
        for k in range(0, n, batch_rows):
            part = draws[k : k + batch_rows, :room]
            written += (
                _cached(model, prefix, part, ends) if _kv.caches_plainly(model) else _whole(model, prefix, part, ends)
            )
    return [prefix + new for new in written]


def _context(model: Any) -> int:
    return int(
        getattr(model.config, "max_position_embeddings", None) or getattr(model.config, "n_positions", None) or 2**31
    )


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Tokens [B] by inverting the cumulative distribution of softmax(logits [B, V]) at `uniform` [B] in [0, 1)."""
    total = torch.softmax(logits.double(), -1).cumsum(-1)
    return torch.searchsorted(total, (uniform.to(total.device) * total[:, -1])[:, None], right=True)[:, 0].clamp(
        max=logits.shape[-1] - 1
    )


def _cached(model: PreTrainedModel, prefix: Sequence[int], draws: Tensor, ends: Tensor) -> list[list[int]]:
    """Sample a batch with the keys and values kept; rows that ended leave."""
    rows, steps = draws.shape
    written: list[list[int]] = [[] for _ in range(rows)]
    for part in _kv.read(model, [list(prefix)] * rows, room=steps, batch_tokens=rows * len(prefix), batch_rows=rows):
        for step in range(steps):
            chosen = draw(part.logits, draws[part.indices, step])
            for i, token in zip(part.indices, chosen.tolist(), strict=True):
                written[i].append(token)
            alive = ~torch.isin(chosen, ends.to(chosen.device))
            if step + 1 == steps or not alive.any():
                break
            if not alive.all():
                keep = alive.nonzero()[:, 0]
                part.select_rows(keep)
                chosen = chosen[keep]
            part.logits = _kv.forward(
                model, chosen[:, None], part.lengths[:, None], part.cache, part.mask, 1, part.rows
            )[:, 0]
            part.lengths = part.lengths + 1
    return written


def _whole(model: Any, prefix: Sequence[int], draws: Tensor, ends: Tensor) -> list[list[int]]:
    """The same by whole forwards, for models whose cache is of another kind."""
    rows, steps = draws.shape
    ids = torch.tensor([list(prefix)] * rows, device=device_of(model))
    for step in range(steps):
        with reading(whole(ids, rows_of_prompts([len(prefix)] * rows))):
            logits = logits_of(model(input_ids=ids))
        ids = torch.cat([ids, draw(logits[:, -1].float(), draws[:, step])[:, None]], 1)
    stop = set(ends.tolist())
    written = [row[len(prefix) :] for row in ids.tolist()]
    return [row[: next((k + 1 for k, t in enumerate(row) if t in stop), len(row))] for row in written]


def shipped_sequences(base_hash: str, beside: str) -> Sequences | None:
    """The sequences that ship with the package for a built-in base, by the hashes of its weights and of the files
    beside them; None when there are none.
    """
    file = files("tunewright.data.quickstart") / f"drift-{base_hash[:12]}.json"
    if not file.is_file():
        return None
    record = json.loads(file.read_text(encoding="utf-8"))
    if (record["base_hash"], record["beside"]) != (base_hash, beside):
        return None
    return Sequences([record["prefix"] + ids for ids in record["sampled"]], len(record["prefix"]))


def make_shipped(name: str, n: int = 64, max_tokens: int = 64, seed: int = 0) -> tuple[str, str]:
    """Sample what ships for a built-in model. Returns the file's name and its text."""
    from tunewright.loading.load import load

    loaded = load(name, "text-generation")
    prefix = conditioning_ids(loaded.tokenizer)
    ids = sample_sequences(loaded.model, loaded.tokenizer, n, max_tokens, seed)
    facts = {
        "base": name,
        "base_hash": loaded.hash,
        "beside": loaded.beside,
        "seed": seed,
        "temperature": 1.0,
        "max_tokens": max_tokens,
        "prefix": prefix,
    }
    lines = ",\n".join(json.dumps(row[len(prefix) :]) for row in ids)
    head = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in facts.items())
    return f"drift-{loaded.hash[:12]}.json", f'{{\n{head},\n"sampled": [\n{lines}\n]\n}}\n'
