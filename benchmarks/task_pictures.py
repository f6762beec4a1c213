"""The run of zero-shot-image-classification for docs/tasks.md, on digits (MNIST, LeCun, Cortes and Burges).

No small pre-trained model of two towers may be passed on, so one is made first, from nothing, on upright digits and
their names in words. It then sees digits that lie on their side, of which it is given forty each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tunewright.finished.export import export

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE = 28


def folder_of(data: Path, part: str, each: int, out: Path, *, turned: bool) -> str:
    """Pictures in folders by class, the first `each` of every digit."""
    with np.load(data / "mnist" / f"{part}.npz") as file:
        pixels, digits = file["x"], file["y"]
    for digit, name in enumerate(NAMES):
        place = out / name
        place.mkdir(parents=True, exist_ok=True)
        for i, picture in enumerate(pixels[digits == digit][:each]):
            Image.fromarray(np.rot90(picture) if turned else picture).save(place / f"{i}.png")
    return str(out)


def made(folder: Path) -> str:
    """A model of two towers (2.4M parameters, of which 2.0M are words), drawn afresh, with MiniLM's tokenizer."""
    import torch
    from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

    from tunewright.loading.locate import locate

    reads = AutoTokenizer.from_pretrained(locate("minilm-l6").folder)
    tower: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "projection_dim": 64,
    }
    ids = {"pad_token_id": reads.pad_token_id, "bos_token_id": reads.cls_token_id, "eos_token_id": reads.sep_token_id}
    text = {**tower, **ids, "vocab_size": len(reads), "max_position_embeddings": 32}
    vision = {**tower, "image_size": SIDE, "patch_size": 7}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)).save_pretrained(folder)
    reads.model_max_length = 32
    reads.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False).save_pretrained(folder)
    return str(folder)


def recipes(data: Path, out: Path, train: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe that makes the base, and the one that adapts it; the latter lacks its model."""
    common: dict[str, Any] = {
        "task": "zero-shot-image-classification",
        "measurement": {"strengths": [1]},
    }
    words = {"template": "a photo of the digit {label}", "max_length": 32}

    def rows(kind: str, each: int, asked: int, *, turned: bool) -> dict[str, Any]:
        places = {n: out / "pictures" / f"{kind}-{n}" for n in ("train", "test")}
        return {
            "train": folder_of(data, "train", each, places["train"], turned=turned),
            "eval": folder_of(data, "test", asked, places["test"], turned=turned),
            **words,
        }

    base = {
        **common,
        "model": made(out / "two-towers"),
        "data": rows("upright", 300, 30, turned=False),
        "methods": ["full"],
        "train": {**train, "learning_rate": 1e-3, "batch_tokens": 1024},
        "budget": {"epochs": 20},
    }
    tuned = {
        **common,
        "data": rows("turned", 40, 30, turned=True),
        "methods": [{"lora": {"rank": 8}}],
        "train": {**train, "learning_rate": 3e-3, "batch_tokens": 512},
        "budget": {"epochs": 30},
    }
    return base, tuned


def towers(data: Path, out: Path, train: dict[str, Any], finished: Callable[[dict[str, Any], Path], Path]) -> Path:
    """The folder of the base that was made, made if it is not there."""
    model = out / "two-towers-model"
    if not model.exists():
        export(finished(recipes(data, out, train)[0], out / "two-towers-run"), model, quiet=True)
    return model


def recipe(
    data: Path, out: Path, train: dict[str, Any], finished: Callable[[dict[str, Any], Path], Path]
) -> dict[str, Any]:
    """The recipe that adapts the base, which is made if it is not there."""
    return {**recipes(data, out, train)[1], "model": str(towers(data, out, train, finished))}
