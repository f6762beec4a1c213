"""Rows for measurement tests, encoded as a run encodes them."""

from __future__ import annotations

import random

from tests import tiny
from tunewright.contract.batch import Row
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.tasks import get_task

LABELS = ["card arrival", "card about to go", "river", "the town", "a"]


def answer_rows(
    n: int = 11, *, seed: int = 0, chat: bool = True, tokenizer=None, labels=LABELS, name: str = "test"
) -> list[Row]:
    """Prompt and answer rows, the answer one of `labels`."""
    rng, tokenizer, task = random.Random(seed), tokenizer or tiny.tokenizer(chat=chat), get_task("text-generation")
    words = ["bank", "card", "river", "town", "shop", "water", "who", "1999"]
    rows = []
    for i in range(n):
        asked = "Which? " + " ".join(rng.choices(words, k=rng.randrange(1, 6)))
        record = Record({"prompt": asked, "completion": rng.choice(labels)}, id=f"{name}.jsonl:{i}", source=name)
        rows.append(task.encode(record, tokenizer, EncodeOptions(template=None)))
    return rows


def text_rows(n: int = 6, *, seed: int = 0, name: str = "keep") -> list[Row]:
    """Plain texts of different lengths."""
    rng, task = random.Random(seed), get_task("text-generation")
    words = " ".join(tiny.TEXT).split()
    records = [
        Record({"text": " ".join(rng.choices(words, k=rng.randrange(3, 25)))}, id=f"{name}.txt:{i}", source=name)
        for i in range(n)
    ]
    return [task.encode(r, tiny.tokenizer(), EncodeOptions()) for r in records]
