"""A tiny model, rows and a recipe on disk: what tests of whole runs start from."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import yaml

from tests import tiny

LABELS = ("lost card", "exchange rate", "cash fee")
WORDS = ("card", "lost", "fee", "top", "up", "cash", "abroad", "pin", "rate")

RECIPE: dict[str, Any] = {
    "model": "./base",
    "task": "text-generation",
    "data": {"train": "train.jsonl", "eval": "test.jsonl", "max_length": 128},
    "keep": ["keep.txt"],
    "train": {"learning_rate": 1e-2, "batch_tokens": 256, "precision": "float32", "threads": 1},
    "stages": [{"name": "main", "methods": [{"lora": {"rank": 4}}], "budget": {"steps": 4}}],
    "measurement": {"drift_sequences": 4, "drift_tokens": 8, "max_new_tokens": 4, "strengths": [0.5, 1.0]},
}


def write_inputs(folder: Path, *, train: int = 40, test: int = 8, model: Any = None) -> None:
    """base/, train.jsonl, test.jsonl and keep.txt."""
    (model if model is not None else tiny.llama()).save_pretrained(folder / "base")
    tiny.tokenizer().save_pretrained(folder / "base")
    rng = random.Random(0)
    for name, count in (("train", train), ("test", test)):
        rows = []
        for _ in range(count):
            label = rng.choice(LABELS)
            rows.append(
                {"prompt": " ".join(rng.sample(WORDS, rng.randint(2, 6))) + " " + label.split()[0], "completion": label}
            )
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    (folder / "keep.txt").write_text("\n\n".join(" ".join(rng.choices(WORDS, k=12)) for _ in range(5)))


def write_recipe(folder: Path, name: str = "r", **changes: Any) -> Path:
    """RECIPE with some of its values changed: `train__seed=1` is train.seed, `stages__0__methods=[...]` the first
    stage's.
    """
    tree = copy.deepcopy(RECIPE)
    for path, value in changes.items():
        *above, last = path.split("__")
        owner: Any = tree
        for key in above:
            owner = owner[int(key)] if isinstance(owner, list) else owner.setdefault(key, {})
        owner[last] = value
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file
