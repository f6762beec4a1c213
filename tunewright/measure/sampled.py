"""Answers drawn from a causal model at a temperature, each token with its log-probability under what drew it.

Every token is drawn from the whole softmax by the next number of its own row's generator, so how rows are batched
changes nothing but rounding; global random state is not used.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from tunewright.contract.batch import Row
from tunewright.measure import _kv
from tunewright.measure._mode import device_of, logits_of, measuring
from tunewright.measure.sample import draw
from tunewright.models.context import ids_and_sources, reading, rows_of_prompts, whole

Answer = tuple[list[int], list[float]]


def sampled(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    rngs: Sequence[random.Random],
    stop_ids: Collection[int],
    temperature: float = 1.0,
    batch_tokens: int = 4096,
    batch_rows: int = 128,
    rows: Sequence[Row] = (),
) -> list[Answer]:
    """For each prompt (token ids, at least one): token ids, the end token included if it was drawn, and their
    log-probabilities.

    `rngs` has one generator a prompt. Log-probabilities are of softmax(logits / temperature), in nats, fp64 rounded to
    Python's float. `rows`: whose prompts these are, where they are rows of a data set.
    """
    answers: list[Answer] = [([], []) for _ in prompts]
    if not prompts or max_new_tokens < 1:
        return answers
    with measuring(model):
        if not _kv.caches_plainly(model):
            _whole(model, prompts, max_new_tokens, rngs, set(stop_ids), temperature, answers, rows)
            return answers
        sizes = {"batch_tokens": batch_tokens, "batch_rows": batch_rows}
        for part in _kv.read(model, prompts, room=max_new_tokens, asked=rows, **sizes):
            _continue(model, part, max_new_tokens, rngs, stop_ids, temperature, answers)
    return answers


def _continue(
    model: Any,
    part: _kv.Read,
    limit: int,
    rngs: Sequence[random.Random],
    ends: Collection[int],
    temperature: float,
    out: list[Answer],
) -> None:
    """Go on from prompts that were read; rows that ended leave. The read is used up."""
    stop = torch.tensor(sorted(ends), dtype=torch.long, device=part.lengths.device)
    for step in range(limit):
        chosen = _draw(part.logits / temperature, part.indices, rngs, out)
        alive = ~torch.isin(chosen, stop)
        if step + 1 == limit or not bool(alive.any()):
            return
        if not bool(alive.all()):
            rows = alive.nonzero()[:, 0]
            part.select_rows(rows)
            chosen = chosen[rows]
        if part.mask is not None:
            part.mask = torch.cat([part.mask, part.mask.new_ones(len(chosen), 1)], 1)
        part.logits = _kv.forward(model, chosen[:, None], part.lengths[:, None], part.cache, part.mask, 1, part.rows)[
            :, 0
        ]
        part.lengths = part.lengths + 1


def _draw(logits: Tensor, indices: Sequence[int], rngs: Sequence[random.Random], out: list[Answer]) -> Tensor:
    """Tokens [B], noted with their log-probabilities in the answers of these rows."""
    chosen = draw(logits, torch.tensor([rngs[i].random() for i in indices], dtype=torch.float64))
    log_probs = torch.log_softmax(logits.double(), -1).gather(-1, chosen[:, None])[:, 0]
    for i, token, value in zip(indices, chosen.tolist(), log_probs.tolist(), strict=True):
        out[i][0].append(token)
        out[i][1].append(value)
    return chosen


def _whole(
    model: Any,
    prompts: Sequence[Sequence[int]],
    limit: int,
    rngs: Sequence[random.Random],
    ends: set[int],
    temperature: float,
    out: list[Answer],
    rows: Sequence[Row],
) -> None:
    """The same by whole forwards, a row at a time, for models whose cache is of another kind."""
    for i, prompt in enumerate(prompts):
        while len(out[i][0]) < limit and not (out[i][0] and out[i][0][-1] in ends):
            ids = torch.tensor([[*prompt, *out[i][0]]], device=device_of(model))
            with reading(whole(ids, rows_of_prompts([len(prompt)], *ids_and_sources(rows[i : i + 1])))):
                logits = logits_of(model(input_ids=ids))
            _draw(logits[:, -1].float() / temperature, [i], rngs, out)
