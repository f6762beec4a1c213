"""What methods share that corrupt plain texts and ask an encoder-decoder for what was there."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from tunewright.contract.records import Record
from tunewright.errors import MethodError
from tunewright.models.adapted import Adapted


def tokenizer_of(adapted: Adapted, name: str) -> Any:
    """The model's tokenizer. MethodError, of the method `name`, for a model without one."""
    if adapted.tokenizer is None:
        raise MethodError(
            "what marks hidden spans is a word of a tokenizer, and the model has none",
            where=f"'{name}', model",
            remedy="use a model with a tokenizer",
        )
    return adapted.tokenizer


def as_source(record: Record) -> Record | None:
    """A plain text as a source, with an answer that stands in for what is drawn later; None for any other record."""
    text = record.get("text")
    if "prompt" in record or not isinstance(text, str) or not text.strip():
        return None
    return record.replace(prompt=text, completion=text.split()[0])


def infilled(ids: Sequence[int], rate: float, mean: float, mask: int, rng: random.Random) -> list[int]:
    """A text of 2 tokens or more with spans of Poisson(mean) tokens replaced by a mask each: round(L rate) tokens in
    all, one at least and never all.
    """
    left, lengths = min(max(1, round(len(ids) * rate)), len(ids) - 1), list[int]()
    draws, hidden = np.random.default_rng(rng.getrandbits(64)), 0
    while hidden < left:
        lengths.append(min(int(draws.poisson(mean)), left - hidden))
        hidden += lengths[-1]
    kept = len(ids) - hidden
    spans, out, at = set(rng.sample(range(kept + len(lengths)), len(lengths))), list[int](), 0
    for place in range(kept + len(lengths)):
        out.append(mask if place in spans else ids[at])
        at += lengths.pop() if place in spans else 1
    return out


def permuted(ids: Sequence[int], ends: Sequence[int], rng: random.Random) -> list[int]:
    """The sentences of a text in a random order."""
    sentences: list[list[int]] = [[]]
    for token in ids:
        sentences[-1].append(token)
        if token in ends:
            sentences.append([])
    order = [s for s in sentences if s]
    rng.shuffle(order)
    return [token for s in order for token in s]
