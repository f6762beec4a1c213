"""The run of image-segmentation for docs/tasks.md: digits (MNIST, LeCun, Cortes and Burges) laid on a ground of noise.

No pictures with masks by hand may be passed on, so these are composed: a digit of a bright colour on dark noise, where
the mask says which digit a stroke belongs to (ink above a quarter). No small pre-trained model of this kind may be
passed on either: a SegFormer (0.3M parameters) is made from nothing on upright digits. It then sees digits that lie on
their side, of which it is given few.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tunewright.finished.export import export

NAMES = ("ground", "zero", "one", "two", "three", "four")
SIDE, DIGIT = 40, 28


def folder_of(data: Path, part: str, count: int, out: Path, *, turned: bool) -> str:
    """`count` composed pictures with their masks, of the first digits of a part of MNIST."""
    with np.load(data / "mnist" / f"{part}.npz") as file:
        wanted = file["y"] < len(NAMES) - 1
        pixels, digits = file["x"][wanted], file["y"][wanted]
    drawn = np.random.default_rng([int(turned), len(part)])
    for name in ("images", "masks"):
        (out / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        seen = drawn.integers(0, 80, (SIDE, SIDE, 3))
        mask = np.zeros((SIDE, SIDE), np.uint8)
        ink = np.rot90(pixels[i]) if turned else pixels[i]
        y, x = drawn.integers(0, SIDE - DIGIT + 1, 2)
        at, share = (slice(y, y + DIGIT), slice(x, x + DIGIT)), ink[..., None] / 255
        seen[at] = (seen[at] * (1 - share) + drawn.integers(120, 256, 3) * share).astype(int)
        mask[at][ink > 64] = digits[i] + 1
        Image.fromarray(seen.astype(np.uint8)).save(out / "images" / f"{i:04}.png")
        Image.fromarray(mask).save(out / "masks" / f"{i:04}.png")
    return str(out)


def made(folder: Path) -> str:
    """A SegFormer, drawn afresh, that reads pictures of SIDE x SIDE."""
    import torch
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessorPil

    torch.manual_seed(0)
    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        sr_ratios=[4, 2, 1, 1],
        hidden_sizes=[16, 32, 64, 96],
        num_attention_heads=[1, 2, 4, 4],
        decoder_hidden_size=64,
        id2label=dict(enumerate(NAMES)),
        label2id={name: i for i, name in enumerate(NAMES)},
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return str(folder)


def recipe(
    data: Path, out: Path, train: dict[str, Any], finished: Callable[[dict[str, Any], Path], Path]
) -> dict[str, Any]:
    """The recipe that adapts the base, which is made if it is not there."""
    common: dict[str, Any] = {"task": "image-segmentation", "measurement": {"strengths": [1]}}

    def rows(kind: str, count: int, asked: int, *, turned: bool) -> dict[str, Any]:
        places = {n: out / "regions" / f"{kind}-{n}" for n in ("train", "test")}
        return {
            "train": folder_of(data, "train", count, places["train"], turned=turned),
            "eval": folder_of(data, "test", asked, places["test"], turned=turned),
            "labels": list(NAMES),
        }

    base = {
        **common,
        "model": made(out / "segformer"),
        "data": rows("upright", 500, 60, turned=False),
        "methods": ["full"],
        "train": {**train, "learning_rate": 2e-3, "batch_tokens": 144},
        "budget": {"epochs": 12},
    }
    model = out / "segformer-model"
    if not model.exists():
        export(finished(base, out / "segformer-run"), model, quiet=True)
    return {
        **common,
        "model": str(model),
        "data": rows("turned", 80, 100, turned=True),
        "methods": [{"lora": {"rank": 8}}],
        "train": {**train, "learning_rate": 5e-3, "batch_tokens": 72},
        "budget": {"epochs": 20},
    }
