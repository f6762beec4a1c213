"""How each base is made: rows in a folder, and a recipe that begins with a fresh model of its shape.

The loop is the one that every recipe runs in. Matrices are stepped by Muon, embeddings and norms by AdamW. Documents
lie one after the other in long rows, a start token between them, which the data's own rule splits into windows that
overlap by one token, so that every token is a target once an epoch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.claims.lab.corpus import Document
from tunewright.claims.lab.tokenizer import LENGTH
from tunewright.loading.new_tokenizer import START

VOCABULARY = 4096
TOGETHER = 50
"""Documents of a row."""
PICTURES = 50_000  # of the training pictures; the last 10,000 are left to the tasks
PASSES = 4
"""Passes over the pictures, each moved anew."""
TOKENS = {"nano": 6_000_000, "nano-large": 5_000_000, "nano-encoder": 3_000_000}
ENCODED = 128
"""Tokens that the encoder reads."""

_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 2 * LENGTH,
    "tie_word_embeddings": True,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "nano": {**_LLAMA, "hidden_size": 192, "intermediate_size": 512},
    "nano-large": {**_LLAMA, "hidden_size": 288, "intermediate_size": 768},
    "nano-encoder": {
        "model_type": "roberta-prelayernorm",
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "max_position_embeddings": ENCODED + 4,  # places are counted from the padding id, 3, on
        "type_vocab_size": 1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    "nano-vit": {
        "model_type": "vit",
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 7,
        "num_channels": 1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
}
TASKS = {"nano-encoder": "fill-mask", "nano-vit": "image-classification"}


def recipe(name: str, tokens: int | None = None) -> dict[str, Any]:
    """The recipe of a base, whose rows are those that `write_texts` or `write_pictures` put beside it. `tokens`: of
    the budget (pictures of `nano-vit`); none: its own.
    """
    pictures, encoder = name == "nano-vit", name == "nano-encoder"
    length = ENCODED if encoder else LENGTH + 1
    end = "npz" if pictures else "jsonl"
    return {
        "name": name,
        "model": {
            "name": f"fresh-{name}",
            "config": CONFIGS[name],
            **({} if pictures else {"tokenizer": "train", "vocab_size": VOCABULARY}),
        },
        "task": TASKS.get(name, "text-generation"),
        "data": {
            "train": f"./train.{end}",
            "validation": [{"path": f"./held.{end}"}],
            **({} if pictures else {"max_length": length}),
        },
        "methods": ["full", {"muon": {"rest": 0.5 if pictures else 0.6, "betas": [0.9, 0.95]}}],
        "budget": {"tokens": tokens or TOKENS.get(name, PICTURES * PASSES)},
        "train": {
            "learning_rate": 2e-3 if pictures else 5e-3,
            "weight_decay": 0.1,
            "batch_tokens": 64 if pictures else 16 * length,
            "warmup_steps": 60,
            "eval_steps": 200,
            "save_steps": 200,
            "save_total_limit": 1,
            "logging_steps": 20,
            "precision": "float32",
            "device": "cpu",
        },
        "measurement": {
            "split": "validation",
            "metric": "accuracy" if pictures else "loss",
            "drift_sequences": 2,
            "drift_tokens": 16,
            "few_shot": 0,
            "strengths": [1.0],
            "rows": 256,
        },
    }


def write_texts(documents: Sequence[Document], file: Path) -> None:
    """Rows of `TOGETHER` documents each, the start token behind every one."""
    texts = [f"{d.text}{START}" for d in documents]
    rows = ["".join(texts[i : i + TOGETHER]) for i in range(0, len(texts), TOGETHER)]
    file.write_text("".join(json.dumps({"text": row}, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_pictures(x: np.ndarray, y: np.ndarray, file: Path, passes: int = PASSES, seed: int = 0) -> None:
    """Each picture [28, 28] `passes` times, moved by up to 2 pixels along each axis, black coming in; the first pass
    before the second.
    """
    rng = np.random.default_rng(seed)
    moved = [shifted(x, rng) for _ in range(passes)]
    np.savez(file, x=np.concatenate(moved) if passes else x, y=np.tile(y, max(1, passes)))


def shifted(x: np.ndarray, rng: np.random.Generator, by: int = 2) -> np.ndarray:
    """Each picture [n, h, w] moved by up to `by` pixels along each axis."""
    _, high, wide = x.shape
    padded = np.pad(x, ((0, 0), (by, by), (by, by)))
    at = rng.integers(0, 2 * by + 1, (len(x), 2))
    return np.stack([p[a : a + high, b : b + wide] for p, (a, b) in zip(padded, at, strict=True)])
