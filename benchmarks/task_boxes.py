"""The run of object-detection for docs/tasks.md: digits (MNIST, LeCun, Cortes and Burges) at known places on noise.

No small set of photographs with boxes may be passed on, so pictures are composed: one or two real digits, each in a
bright colour, on dark noise; a box holds a digit's ink. The body is the lab's nano-vit, which knows upright digits one
by one: it becomes a YOLOS (its patches and blocks as they are, its positions stretched to a larger picture, the token
that it reads a digit by once for each proposal) whose heads of classes and boxes know nothing yet.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from tunewright.loading.builtin import SHIPPED

NAMES = ("zero", "one", "two", "three", "four")
HIGH, WIDE, DIGIT, PROPOSALS = 42, 56, 28, 4
INK = 64


def folder_of(data: Path, part: str, count: int, out: Path, digits: range) -> str:
    """`count` composed pictures of some digits of a part of MNIST, with a metadata.jsonl as `datasets` reads it."""
    with np.load(data / "mnist" / f"{part}.npz") as file:
        wanted = np.isin(file["y"], list(digits))
        pixels, kinds = file["x"][wanted], file["y"][wanted]
    out.mkdir(parents=True, exist_ok=True)
    drawn, taken, lines = np.random.default_rng([digits.start, len(part)]), 0, list[str]()
    for i in range(count):
        seen = drawn.integers(0, 80, (HIGH, WIDE, 3))
        found: dict[str, list[Any]] = {"bbox": [], "category": []}
        free = np.ones((HIGH, WIDE), bool)
        for _ in range(drawn.integers(1, 3)):
            y, x = (int(drawn.integers(0, side - DIGIT + 1)) for side in (HIGH, WIDE))
            ink, kind = pixels[taken % len(pixels)], int(kinds[taken % len(pixels)])
            rows, columns = (np.flatnonzero((ink > INK).any(axis)) for axis in (1, 0))
            top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
            at = (slice(y + top, y + bottom), slice(x + left, x + right))
            if not free[at].all():  # it would lie on another
                continue
            taken += 1
            free[at] = False
            share = ink[top:bottom, left:right, None] / 255
            seen[at] = (seen[at] * (1 - share) + drawn.integers(120, 256, 3) * share).astype(int)
            found["bbox"].append([int(x + left), int(y + top), int(right - left), int(bottom - top)])
            found["category"].append(NAMES[kind])
        Image.fromarray(seen.astype(np.uint8)).save(out / f"{i:04}.png")
        lines.append(json.dumps({"file_name": f"{i:04}.png", "objects": found}))
    (out / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(out)


def made(folder: Path) -> str:
    """nano-vit's body as a YOLOS with tokens and heads drawn afresh, for pictures of HIGH x WIDE in colour."""
    from transformers import ViTConfig, YolosConfig, YolosForObjectDetection, YolosImageProcessorPil

    of: Any = ViTConfig.from_pretrained(SHIPPED / "nano-vit")
    stored = load_file(SHIPPED / "nano-vit" / "model.safetensors")
    theirs = {name.removeprefix("vit."): value.float() for name, value in stored.items()}
    torch.manual_seed(0)
    config = YolosConfig(
        **{k: getattr(of, k) for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")},
        image_size=[HIGH, WIDE],
        patch_size=of.patch_size,
        num_detection_tokens=PROPOSALS,
        use_mid_position_embeddings=False,
        id2label=dict(enumerate(NAMES)),
        label2id={name: i for i, name in enumerate(NAMES)},
    )
    new = YolosForObjectDetection(config)
    own = new.vit.state_dict()
    own |= {name: value for name, value in theirs.items() if name in own and own[name].shape == value.shape}
    own["embeddings.patch_embeddings.projection.weight"] = (
        theirs["embeddings.patch_embeddings.projection.weight"].expand(-1, 3, -1, -1) / 3
    )
    side = of.image_size // of.patch_size
    places = theirs["embeddings.position_embeddings"]
    grid = places[:, 1:].view(1, side, side, -1).permute(0, 3, 1, 2)
    wide = F.interpolate(grid, size=(HIGH // of.patch_size, WIDE // of.patch_size), mode="bicubic")
    own["embeddings.position_embeddings"] = torch.cat(
        [places[:, :1], wide.flatten(2).transpose(1, 2), places[:, :1].expand(-1, PROPOSALS, -1)], 1
    )
    # what nano-vit reads a digit by, a little different each: alike, they would say the same
    own["embeddings.detection_tokens"] = theirs["embeddings.cls_token"] + 0.1 * torch.randn(
        1, PROPOSALS, of.hidden_size
    )
    new.vit.load_state_dict(own)
    new.save_pretrained(folder)
    half = [0.5] * 3
    YolosImageProcessorPil(size={"height": HIGH, "width": WIDE}, image_mean=half, image_std=half).save_pretrained(
        folder
    )
    return str(folder)


def recipe(data: Path, out: Path, train: dict[str, Any]) -> dict[str, Any]:
    """The recipe that adapts the base, which is made first."""
    digits = range(len(NAMES))
    return {
        "task": "object-detection",
        "model": made(out / "yolos"),
        "data": {
            "train": folder_of(data, "train", 1600, out / "boxes" / "train", digits),
            "eval": folder_of(data, "test", 100, out / "boxes" / "test", digits),
            "labels": list(NAMES),
        },
        "methods": ["full"],
        "train": {**train, "learning_rate": 7e-4, "batch_tokens": 8 * 12},
        "budget": {"epochs": 10},
        "measurement": {"strengths": [1]},
    }
