"""What a causal model learns from its context alone, on made sequences of random tokens: no language, no knowledge.

Two kinds of sequences, the tokens of each drawn without replacement from all that are no special ones:

    copying    s_1 ... s_L  s_1 ... s_L                what follows is what followed the first time, at a fixed distance
    induction  a_3 b_3  a_1 b_1  a_2 b_2 | a_1 b_1 ...  pairs in several rounds, the order drawn anew in each: which b
               follows is told by the a before it alone, so that no fixed distance helps

A token is right where it is the model's likeliest one; asked are s_2 ... s_L of the second pass, and every b from the
second round on. Random tokens repeated: Olsson et al. 2022, arXiv:2209.11895; the use of such a figure while a model
goes on in another language: Elhady et al. 2025, arXiv:2506.00288 (papers: language-cpt-emergence), whose own set of
texts is another.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tunewright.contract.batch import Row
from tunewright.contract.task import Task
from tunewright.measure._kv import batches_by_length
from tunewright.measure._mode import device_of, measuring
from tunewright.measure.sample import conditioning_ids

PAPERS = ("language-cpt-emergence",)
KINDS = ("copying", "induction")
SEQUENCES, LENGTH, PAIRS, ROUNDS = 16, 24, 8, 3


@dataclass(frozen=True)
class InContext:
    """Of each sequence the share of what was asked that the model had right, and how many tokens were asked."""

    right: list[float]
    asked: list[int]


def ordinary_ids(tokenizer: Any) -> list[int]:
    """Ids of all tokens that are neither special nor added, rising."""
    apart = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    return sorted(set(tokenizer.get_vocab().values()) - apart)


def copying(ids: Sequence[int], rng: random.Random, length: int = LENGTH) -> tuple[list[int], list[int]]:
    """(tokens, places of those that are asked) of one sequence that is said twice."""
    s = rng.sample(list(ids), length)
    return [*s, *s], list(range(length + 1, 2 * length))


def induction(
    ids: Sequence[int], rng: random.Random, pairs: int = PAIRS, rounds: int = ROUNDS
) -> tuple[list[int], list[int]]:
    """(tokens, places of those that are asked) of pairs that are said in several orders."""
    drawn = rng.sample(list(ids), 2 * pairs)
    said: list[int] = []
    for _ in range(rounds):
        for i in rng.sample(range(pairs), pairs):
            said += drawn[2 * i : 2 * i + 2]
    return said, list(range(2 * pairs + 1, len(said), 2))


def made(tokenizer: Any, kind: str, count: int = SEQUENCES) -> list[Row]:
    """`count` sequences of a kind, the same for the same tokenizer: weight 1 on what is asked, 0 on the rest.

    A vocabulary too small for a sequence has shorter ones.
    """
    ids, start = ordinary_ids(tokenizer), conditioning_ids(tokenizer)
    most = len(ids) // 2
    rows = []
    for number in range(count):
        rng = random.Random(f"{kind}/{number}")
        if kind == "copying":
            tokens, asked = copying(ids, rng, min(LENGTH, 2 * most))
        else:
            tokens, asked = induction(ids, rng, min(PAIRS, most))
        weights = [0.0] * (len(start) + len(tokens))
        for place in asked:
            weights[len(start) + place] = 1.0
        rows.append(Row(f"{kind}:{number}", kind, [*start, *tokens], weights))
    return rows


def read(model: Any, task: Task, rows: Sequence[Row], *, batch_tokens: int = 2048) -> InContext:
    """What the model has right of made sequences."""
    right = [0.0] * len(rows)
    asked = [int(sum(w > 0 for w in row.weights)) for row in rows]
    with measuring(model):
        for indices in batches_by_length([row.size for row in rows], batch_tokens, 64):
            batch = task.collate([rows[i] for i in indices]).to(device_of(model))
            outputs = task.forward(model, batch)
            hits = (outputs.logits.argmax(-1) == batch.labels).float() * (batch.weights > 0)
            sums = torch.zeros(len(indices), device=hits.device).index_add_(0, batch.rows, hits)
            for i, total in zip(indices, sums.tolist(), strict=True):
                right[i] = total / asked[i]
    return InContext(right, asked)
