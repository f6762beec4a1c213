"""What claims about pre-training share: a fresh model small enough for seconds, and general text to learn from."""

from __future__ import annotations

from itertools import islice
from typing import Any

from tunewright.claims.lab import corpus, rows

GENERAL, LONGEST = 3000, 400
"""Beginnings of web pages at most (c4-web has 252 that serve: runs read them again), and the letters of each."""


def model(seed: int, vocabulary: int = 1024) -> dict[str, Any]:
    """A Llama of two layers and width 64 whose weights are drawn by the claim's seed."""
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }
    return {"name": "fresh-claim", "config": config, "vocab_size": vocabulary, "seed": seed}


def general() -> str:
    """A file of general text: none of it is in what the lab keeps or judges."""
    never = corpus.ngrams(corpus.QUICKSTART_KEEP.read_text(encoding="utf-8"))
    pages = (r["text"] for r in rows.shuffled(corpus.rows("c4-web/train.jsonl.gz")))
    usable = (t for t in pages if len(t) >= LONGEST and not corpus.is_held(t) and not corpus.ngrams(t) & never)
    texts = [{"text": t[:LONGEST].rpartition(" ")[0]} for t in islice(usable, GENERAL)]
    return rows.written("general", {"train": texts})["train"]


def stage(name: str, data: Any, tokens: int, rate: float, **more: Any) -> dict[str, Any]:
    """A stage of training everything on `data` for `tokens`."""
    made = {
        "name": name,
        "data": {"train": data, "truncation": "split"},
        "methods": ["full"],
        "budget": {"tokens": tokens},
        "train": {"learning_rate": rate, "batch_tokens": 2048},
    }
    return {**made, **more}
