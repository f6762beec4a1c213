"""Tiny models that draw and pictures, for tests of the tasks that draw pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tunewright.conformance import task_drawing, task_next_scale
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.recipe import Recipe
from tunewright.tasks import get_task
from tunewright.tasks._drawing import options_for
from tunewright.tasks._parts import TO_IMAGE, UNCONDITIONAL

WRITE = {UNCONDITIONAL: task_drawing.write_unconditional, TO_IMAGE: task_drawing.write_text_to_image}
"""What writes a diffusion pipeline."""
MAPS = {name: task_next_scale.write_of(name) for name in WRITE}
"""What writes a model of next-scale prediction."""


def pipeline(folder: Path, name: str, seed: int = 0, by: Any = WRITE, **changes: Any) -> Path:
    """A pipeline's folder, drawn by a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        by[name](folder, **changes)
    return folder


def place(folder: Path, name: str, by: Any = WRITE, **changes: Any) -> Path:
    """A folder with base/, pictures/, train.jsonl and test.jsonl."""
    pipeline(folder / "base", name, by=by, **changes)
    task_drawing.pictures(folder)
    rows = [{"image": f"pictures/{i}.png", "text": task_drawing.COLOURS[i % 2]} for i in range(12)]
    rows = rows if name == TO_IMAGE else [{"image": row["image"]} for row in rows]
    for file, some in (("train.jsonl", rows[:8]), ("test.jsonl", rows[8:])):
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    return folder


def recipe(folder: Path, name: str, *methods: Any, **changes: Any) -> Recipe:
    """A recipe of a few steps; `data__train="other.jsonl"` changes a value."""
    tree = {
        "model": "./base",
        "task": name,
        "data": {"train": "train.jsonl", "eval": "test.jsonl"},
        "methods": list(methods or ["lora"]),
        "train": {"learning_rate": 1e-2, "batch_tokens": 16, "precision": "float32", "threads": 1, "device": "cpu"},
        "budget": {"steps": 4},
        "measurement": {"strengths": [1]},
    }
    tree["train"]["save_steps"] = 2
    if not (folder / "base" / "next_scale").exists():
        tree["measurement"]["num_inference_steps"] = 2
    (folder / "recipe.yaml").write_text(json.dumps(tree), encoding="utf-8")
    return Recipe.load(folder / "recipe.yaml", [f"{n.replace('__', '.')}={json.dumps(v)}" for n, v in changes.items()])


def rows(folder: Path, name: str, model: Any, count: int = 4, **more: Any) -> list[Any]:
    """Rows as the task encodes them for a model."""
    options = EncodeOptions(image=options_for(model.config), **more)
    values = [{"image": f"pictures/{i}.png", "text": task_drawing.COLOURS[i % 2]} for i in range(count)]
    records = [Record(v, id=f"r{i}", source="s", base=str(folder)) for i, v in enumerate(values)]
    return [get_task(name).encode(record, model.around.tokenizer, options) for record in records]


def padded(model: Any, text: str) -> list[int]:
    """The ids of a text as the text encoder of a model reads them."""
    ids = list(model.around.tokenizer(text)["input_ids"])
    return [*ids, *[model.around.tokenizer.pad_token_id] * (model.config.longest - len(ids))]
