"""The run of image-feature-extraction for docs/tasks.md: characters of an alphabet that nothing was learnt of.

Omniglot's small background set (Lake et al. 2015): 2,240 drawings of four alphabets are learnt from without a label,
and asked is whether the nearest drawings of a fifth, Greek (24 letters by 20 hands), say a drawing's letter. The base
is the lab's nano-vit, which knows upright digits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TASK = "image-feature-extraction"
SIDE, HELD_OUT = 28, "Greek"


def folders(data: Path, out: Path) -> tuple[str, str]:
    """A folder of drawings alone, and one of the alphabet held out, a folder a letter."""
    with np.load(data / "omniglot-small1" / "all.npz") as file:
        pixels, letters, names = file["x"], file["y"], file["char_names"]
    for i, (drawn, letter) in enumerate(zip(pixels, letters, strict=True)):
        alphabet, _, name = str(names[letter]).partition("/")
        place = out / "test" / name if alphabet == HELD_OUT else out / "train"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn * 255).resize((SIDE, SIDE), Image.Resampling.BOX).save(place / f"{i:04}.png")
    return str(out / "train"), str(out / "test")


def recipe(data: Path, out: Path, train: dict[str, Any]) -> dict[str, Any]:
    """The recipe that adapts nano-vit."""
    learnt, asked = folders(data, out / "letters")
    return {
        "task": TASK,
        "model": "nano-vit",
        "data": {
            "train": learnt,
            "eval": asked,
            "views": {"area": [0.5, 1], "mirror": False, "turn": 20, "light": 0.2},
        },
        "methods": ["full", "simclr"],
        "train": {**train, "learning_rate": 1e-3, "batch_tokens": 128},
        "budget": {"epochs": 6},
        "measurement": {"strengths": [1]},
    }
