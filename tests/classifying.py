"""A tiny classifier without a head of its own, its rows (texts or pictures) and a recipe."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import ViTImageProcessorPil

from tests import small, tiny

LABELS = ("card", "fee", "rate")
TEXT, PICTURES = "text-classification", "image-classification"


def write_inputs(folder: Path, task: str = TEXT, *, train: int = 36, test: int = 15, head: int = 4) -> None:
    """base/, train.jsonl, test.jsonl and pictures. `head`: classes of the checkpoint's head; 3 keeps it."""
    if task == TEXT:
        model = tiny.bert_classifier(labels=head)
        tiny.tokenizer(encoder=True, chat=False).save_pretrained(folder / "base")
    else:
        model, size = tiny.vit(labels=head), {"height": 16, "width": 16}
        ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.2] * 3).save_pretrained(folder / "base")
    if head == len(LABELS):
        model.config.id2label, model.config.label2id = dict(enumerate(LABELS)), {n: i for i, n in enumerate(LABELS)}
    model.save_pretrained(folder / "base")
    rng = random.Random(0)
    for name, count in (("train", train), ("test", test)):
        rows = [_row(folder, f"{name}-{i}", LABELS[i % 3], task, rng) for i in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(r) for r in rows))


def _row(folder: Path, name: str, label: str, task: str, rng: random.Random) -> dict[str, Any]:
    if task == TEXT:
        return {"text": " ".join([*rng.sample(small.WORDS, 3), label, label]), "label": label}
    colour = [40, 40, 40]
    colour[LABELS.index(label)] = 200 + rng.randrange(40)
    picture = Image.new("RGB", (16, 16), tuple(colour))
    picture.putpixel((rng.randrange(16), rng.randrange(16)), (255, 255, 255))
    picture.save(folder / f"{name}.png")
    return {"image": f"{name}.png", "label": label}


def recipe(task: str = TEXT, **changes: Any) -> dict[str, Any]:
    """Changes for `small.write_recipe`."""
    return {
        "task": task,
        "keep": [],
        "train__learning_rate": 1e-3,
        "train__batch_tokens": 128 if task == TEXT else 12,
        "measurement__strengths": [1.0],
        **changes,
    }
