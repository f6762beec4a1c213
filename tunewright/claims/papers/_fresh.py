"""What claims about pre-training share: a fresh model small enough for seconds, and general text to learn from."""

from __future__ import annotations

from typing import Any

from tunewright.claims.lab import rows

GENERAL = 3000
"""Beginnings of documents, of about a hundred tokens each."""


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
    texts = rows.general(GENERAL)
    return rows.written("general", {"train": [{"text": t} for t in texts]})["train"]


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
