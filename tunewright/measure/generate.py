"""Greedy answers to many prompts, exact and fast: the common start is read once, rows that stop leave the batch.

Plain argmax at every step, with no penalty, bias or processor of a generation config, so that base and tuned are
asked in the same way. Equals transformers' `model.generate(do_sample=False)` without processors, token for token.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from tunewright.contract.batch import Row
from tunewright.measure import _kv
from tunewright.measure._mode import device_of, measuring
from tunewright.models.context import following, ids_and_sources, rows_of_prompts

Settled = Callable[[int, Sequence[int]], bool]
"""Whether no more of an answer is needed, from the prompt's index and the answer's tokens so far."""

_COMPACT_BELOW = 0.85  # share of rows still writing below which the batch is made smaller (copying costs a little)


def stop_ids(model: PreTrainedModel, tokenizer: Any = None) -> tuple[int, ...]:
    """The tokens that end an answer: the generation config's, else the config's, and the tokenizer's end of text."""
    config = getattr(model, "generation_config", None)
    ids = getattr(config, "eos_token_id", None)
    ids = ids if ids is not None else getattr(model.config, "eos_token_id", None)
    stops = set() if ids is None else {ids} if isinstance(ids, int) else set(ids)
    if tokenizer is not None and tokenizer.eos_token_id is not None:
        stops.add(tokenizer.eos_token_id)
    return tuple(sorted(stops))


def greedy(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_ids: Collection[int] | None = None,
    *,
    batch_tokens: int = 2048,
    batch_rows: int = 64,
    settled: Settled | None = None,
    rows: Sequence[Row] = (),
) -> list[list[int]]:
    """Answer each prompt (token ids, at least one) greedily. Returns token ids, without the one that ended the answer.

    `stop_ids`: None takes the model's and the tokenizer's. A prompt's answer has at most `max_new_tokens` tokens, and
    is left where it stands once it is `settled`. `rows`: whose prompts these are, where they are rows of a data set
    (read by deltas that read what their rows are).
    """
    ends = _ends(model, tokenizer, stop_ids)
    answers: list[list[int]] = [[] for _ in prompts]
    if not prompts or max_new_tokens < 1:
        return answers
    _check(prompts)
    with measuring(model):
        if not _kv.caches_plainly(model):
            return _library(model, tokenizer, prompts, max_new_tokens, ends, rows)
        sizes = {"batch_tokens": batch_tokens, "batch_rows": batch_rows}
        for part in _kv.read(model, prompts, room=max_new_tokens, asked=rows, **sizes):
            for i, answer in continue_greedily(model, part, max_new_tokens, ends, settled):
                answers[i] = answer
    return answers


def continue_greedily(
    model: PreTrainedModel,
    part: _kv.Read,
    max_new_tokens: int,
    ends: Collection[int],
    settled: Settled | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """Go on from prompts that were read; gives (index of the prompt, answer). The read is used up."""
    device = part.lengths.device
    stop = torch.tensor(sorted(ends), device=device)
    words: dict[int, list[int]] = {i: [] for i in part.indices}
    alive = torch.ones(len(part.indices), dtype=torch.bool, device=device)
    for step in range(max_new_tokens):
        chosen = part.logits.argmax(-1)
        alive = alive & ~torch.isin(chosen, stop)
        for i, token, on in zip(part.indices, chosen.tolist(), alive.tolist(), strict=True):
            if on:
                words[i].append(token)
        if settled is not None:
            open_ = [on and not settled(i, words[i]) for i, on in zip(part.indices, alive.tolist(), strict=True)]
            alive = torch.tensor(open_, device=device)
        if step + 1 == max_new_tokens or not alive.any():
            break
        if alive.sum() < _COMPACT_BELOW * len(alive):
            rows = alive.nonzero()[:, 0]
            part.select_rows(rows)
            chosen, alive = chosen[rows], alive[rows]
        if part.mask is not None:
            part.mask = torch.cat([part.mask, part.mask.new_ones(len(alive), 1)], 1)
        part.logits = _kv.forward(model, chosen[:, None], part.lengths[:, None], part.cache, part.mask, 1, part.rows)[
            :, 0
        ]
        part.lengths = part.lengths + 1
    yield from words.items()


def _ends(model: PreTrainedModel, tokenizer: Any, given: Collection[int] | None) -> set[int]:
    return set(stop_ids(model, tokenizer) if given is None else given)


def _check(prompts: Sequence[Sequence[int]]) -> None:
    for i, p in enumerate(prompts):
        if not len(p):
            raise ValueError(f"prompt {i} has no tokens")


def _library(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    ends: set[int],
    asked: Sequence[Row],
) -> list[list[int]]:
    """The library's own generation, one length at a time, for models whose cache is of another kind."""
    device, answers = device_of(model), [list[int]() for _ in prompts]
    pad = getattr(tokenizer, "pad_token_id", None)
    pad = pad if pad is not None else min(ends, default=0)
    encoder = getattr(model.config, "is_encoder_decoder", False)
    for length in sorted({len(p) for p in prompts}):
        rows = [i for i, p in enumerate(prompts) if len(p) == length]
        for some in (rows[k : k + 32] for k in range(0, len(rows), 32)):
            ids = torch.tensor([list(prompts[i]) for i in some], device=device)
            whose = [asked[i] for i in some] if asked else []
            with following(model, rows_of_prompts([length] * len(some), *ids_and_sources(whose))):
                out = model.generate(  # type: ignore[operator]
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    num_beams=1,
                    repetition_penalty=1.0,
                    eos_token_id=sorted(ends) or None,
                    pad_token_id=pad,
                    temperature=None,
                    top_p=None,
                    top_k=None,
                )
            for i, row in zip(some, out.tolist(), strict=True):
                new = row[1:] if encoder else row[length:]
                cut = next((k for k, t in enumerate(new) if t in ends), len(new))
                answers[i] = new[:cut]
    return answers
