"""Pictures without labels and a tiny ViT, for tests of image-feature-extraction and of its objectives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import ViTImageProcessorPil

from tunewright.conformance.bench import seeded
from tunewright.conformance.task_examples import vit_without_head
from tunewright.contract.batch import Row
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.tasks import get_task

TASK = get_task("image-feature-extraction")
STILL = {"area": (1.0, 1.0), "mirror": False, "turn": 0.0, "light": 0.0, "colour": 0.0, "grey": 0.0}
"""Views that are the picture itself."""
NAMES = ("fox", "frog", "whale")


def image(**more: Any) -> dict[str, Any]:
    """How pictures of 8 x 8 are encoded."""
    size: dict[str, Any] = {"height": 8, "width": 8, "shortest": None, "channels": 3, "resample": 2, "scale": 1 / 255}
    return {**size, "mean": [0.5] * 3, "std": [0.5] * 3, **more}


def picture(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8).tolist()


def row(seed: int = 0, name: str = "r0", views: dict[str, Any] | None = None, **columns: Any) -> Row:
    record = Record({"image": picture(seed), **columns}, id=name, source="s")
    return TASK.encode(record, None, EncodeOptions(image=image(**({"views": views} if views else {}))))


def rows(count: int = 6, **more: Any) -> list[Row]:
    return [row(i, f"r{i}", **more) for i in range(count)]


def model(seed: int = 0) -> Any:
    return seeded(vit_without_head, seed).eval()


def write_place(folder: Path, net: Any = None) -> Path:
    """A model, and pictures in folders by class: bright in one channel each."""
    (net or seeded(vit_without_head)).save_pretrained(folder / "base")
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder / "base")
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 6)):
        for channel, name in enumerate(NAMES):
            place = folder / part / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 160, (10, 9, 3))
                pixels[..., channel] += 40
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    return folder


def recipe_in(place: Path, methods: Any = ("full",), steps: int = 8, **more: Any) -> Path:
    """A recipe of these; `data__views={...}` changes a value."""
    tree: dict[str, Any] = {
        "model": "./base",
        "task": TASK.name,
        "data": {"train": "train", "eval": "test"},
        "methods": list(methods),
        "train": {"learning_rate": 0.003, "batch_tokens": 12, "precision": "float32", "threads": 1, "device": "cpu"},
        "budget": {"steps": steps},
        "measurement": {"strengths": [1]},
    }
    tree["train"]["save_steps"] = 4
    for name, value in more.items():
        section, _, key = name.partition("__")
        tree[section][key] = value
    (place / "recipe.yaml").write_text(json.dumps(tree))
    return place / "recipe.yaml"
