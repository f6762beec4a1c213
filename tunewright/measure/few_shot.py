"""The base given a few examples in its prompt: what a user gets without any training, so that format is not sold as
skill.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tunewright.contract.batch import Row
from tunewright.contract.records import RowProblem
from tunewright.errors import DataError
from tunewright.measure.text import prompt_ids, reference, same_text
from tunewright.tasks._dialect import dialect_of
from tunewright.tasks._ends import end_tokens
from tunewright.tasks._render import render


def few_shot(tokenizer: Any, rows: Sequence[Row], train_rows: Sequence[Row], k: int = 3, seed: int = 0) -> list[Row]:
    """Rows whose prompts begin with `k` whole training rows, the same for every row, of different answers where
    possible.

    With a chat template an example is an earlier turn pair of the conversation; without one it ends with a blank line
    instead of the end-of-text token. An example equal to a row that is asked is never used. Raises DataError when
    there are fewer than `k` training rows with an answer.
    """
    asked = {tuple(prompt_ids(row)) for row in rows}
    answered = [r for r in train_rows if r.fields.get("prompt_ids") and r.fields.get("reference")]
    pool = [r for r in answered if tuple(r.fields["prompt_ids"]) not in asked]
    if k < 0 or len(pool) < k:
        what = f"{k} examples were asked for and {len(pool)} training rows can serve"
        raise DataError(what, where="measurement.few_shot", remedy=f"write few_shot: {len(pool)} or less")
    shots = _draw(pool, k, random.Random(f"{seed}/few-shot"))
    head = opening(tokenizer)
    pieces = [_example(tokenizer, shot) for shot in shots]
    start = [t for i, piece in enumerate(pieces) for t in (piece[_cut(piece, head) :] if i else piece)]
    return [_after(start, row, head) for row in rows]


def _draw(pool: Sequence[Row], k: int, rng: random.Random) -> list[Row]:
    order = rng.sample(range(len(pool)), len(pool))
    first: dict[str, int] = {}
    for i in order:
        first.setdefault(same_text(reference(pool[i])), i)
    distinct = list(first.values())[:k]
    others = [i for i in order if i not in set(distinct)]
    return [pool[i] for i in (distinct + others)[:k]]


def _example(tokenizer: Any, row: Row) -> list[int]:
    ids = list(row.input_ids)
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    if tokenizer.chat_template:
        return ids if tokenizer.decode(ids).endswith("\n") else ids + newline
    while ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids + tokenizer("\n\n", add_special_tokens=False)["input_ids"]


def opening(tokenizer: Any) -> list[int]:
    """Tokens that stand once, at the start of a conversation or text: BOS, and a chat template's default system
    turn.
    """
    if not tokenizer.chat_template:
        return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    head = _head(tokenizer)
    return list(tokenizer(head, add_special_tokens=False)["input_ids"]) if head else []


def _head(tokenizer: Any) -> str:
    """The text before the first turn; "" where that cannot be told. What stands between an answer and the next
    question is the answer's end and the header of a question, which stands before the first question, too.
    """
    asked, said, again = "Qaskedq", "Qsaidq", "Qagainq"
    turns = [{"role": r, "content": c} for r, c in (("user", asked), ("assistant", said), ("user", again))]
    try:
        text = render(tokenizer, dialect_of(tokenizer).write(turns))
    except RowProblem:
        return ""
    if not -1 < text.find(asked) < text.find(said) < text.find(again):
        return ""
    front, between = text[: text.find(asked)], text[text.find(said) + len(said) : text.find(again)]
    end = len(end_tokens(tokenizer).first(between))
    header = between[end:].lstrip("\n") if end else os.path.commonprefix((front[::-1], between[::-1]))[::-1]
    return front.removesuffix(header) if front.endswith(header) else ""


def _cut(ids: Sequence[int], head: Sequence[int]) -> int:
    return len(head) if list(ids[: len(head)]) == list(head) else 0


def _after(start: Sequence[int], row: Row, head: Sequence[int]) -> Row:
    """The row after the examples; what opens a conversation or text stands once, before the first of them."""
    cut = _cut(row.input_ids, head) if start else 0
    ids, weights = [*start, *row.input_ids[cut:]], [0.0] * len(start) + list(row.weights[cut:])
    return replace(
        row, input_ids=ids, weights=weights, fields={**row.fields, "prompt_ids": [*start, *prompt_ids(row)[cut:]]}
    )
