"""What claims about prompts of two towers share: a small model of pictures and texts, and coloured digits in words.

Sixty classes are told in words, a colour and a digit. The towers learn all of them from upright digits; then few rows
of half the classes, turned by a right angle, are learnt, and the other half is judged.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.claims.lab import corpus
from tunewright.files.cache import cache_folder

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

COLOURS = {
    "red": (1.0, 0.1, 0.1),
    "green": (0.1, 1.0, 0.1),
    "blue": (0.1, 0.1, 1.0),
    "yellow": (1.0, 1.0, 0.1),
    "purple": (1.0, 0.1, 1.0),
    "white": (1.0, 1.0, 1.0),
}
DIGITS = "zero one two three four five six seven eight nine".split()
SAID = ("{} {}.", "a photo of a {} {}.", "a photo of {} {}, painted in {}", "a photo of {} {}, the digit {}")
"""What pictures are called upstream: as a class alone, behind the usual words, and with either description."""
SHOTS, JUDGED = 16, 10
"""Rows of each class that are learnt from, and that are judged."""


def name(colour: str, digit: str) -> str:
    """A class in words, as descriptions name it."""
    return f"{colour} {digit}"


DESCRIBED = {name(c, d): [f"painted in {c}", f"the digit {d}"] for c in COLOURS for d in DIGITS}
"""What is known of each class in words."""


def _file(part: str, classes: Sequence[tuple[str, str]], count: int, said: Sequence[str], turned: bool) -> str:
    """npz of `count` coloured digits a class, called in each of the ways that are `said` in turn."""
    held = np.load(corpus.data_folder() / "mnist" / ("test.npz" if part == "eval" else "train.npz"))
    x, y, rng = held["x"], held["y"], np.random.default_rng(len(part))
    pictures, labels, names = [], [], list[str]()
    for colour, digit in classes:
        tone = np.array(COLOURS[colour])
        for i, at in enumerate(rng.choice(np.flatnonzero(y == DIGITS.index(digit)), count, replace=False)):
            way = said[i % len(said)]
            text = way.format(colour, digit, digit if way == SAID[3] else colour)
            names += [text] if text not in names else []
            one = np.rot90(x[at]) if turned else x[at]
            pictures.append((one[..., None] * tone).astype(np.uint8))
            labels.append(names.index(text))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.stack(pictures), y=np.array(labels), names=np.array(names))
    digest = hashlib.sha256(np.stack(pictures).tobytes() + "/".join(names).encode()).hexdigest()[:16]
    path = cache_folder() / "lab" / f"two-towers-{digest}" / f"{part}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{part}.{os.getpid()}.partial")
        aside.write_bytes(buffer.getvalue())
        aside.replace(path)
    return str(path)


@cache
def files() -> dict[str, str]:
    """`upstream`: all classes, upright; `few` of one half of the classes and `eval` of the other, turned."""
    every = [(c, d) for c in COLOURS for d in DIGITS]
    halves = [[(c, d) for i, c in enumerate(COLOURS) for j, d in enumerate(DIGITS) if (i + j) % 2 == h] for h in (0, 1)]
    return {
        "upstream": _file("upstream", every, 100, SAID, turned=False),
        "few": _file("few", halves[0], SHOTS, SAID[:1], turned=True),
        "eval": _file("eval", halves[1], JUDGED, SAID[:1], turned=True),
    }


def towers(seed: int) -> str:
    """The folder of a model that knows nothing yet: two towers of two blocks, pictures of 28 x 28 in 16 patches."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    from tunewright.conformance.task_examples import tokenizer
    from tunewright.models.generators import seeded

    folder = Path(cache_folder()) / "lab" / f"two-towers-{seed}"
    if not (folder / "preprocessor_config.json").is_file():
        sizes = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
        text: dict[str, Any] = {**sizes, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        config = CLIPConfig(
            text_config={**text, "vocab_size": 61, "max_position_embeddings": 96},
            vision_config={**sizes, "image_size": 28, "patch_size": 7},
            projection_dim=64,
        )
        with seeded(seed):
            CLIPModel(config).save_pretrained(folder)
        tokenizer(end=True).save_pretrained(folder)
        size = {"height": 28, "width": 28}
        CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False).save_pretrained(folder)
    return str(folder)


def few(run: ClaimRun, arm: str, seed: int, *, epochs: int = 12, **more: Any) -> Any:
    """The record of a run that learns all classes upright, and then few turned rows of one half by the arm's methods.

    Judged on turned digits of the other half, whose names no row of the second stage has.
    """
    data = files()
    stages = [
        {
            "name": "towers",
            "methods": ["full"],
            "data": {"train": [{"path": data["upstream"], "name": "upstream"}]},
            "train": {"learning_rate": 1e-3, "batch_tokens": 2048},
            "budget": {"epochs": epochs},
        },
        {
            "name": "few",
            "start": "stages.towers",
            "carry": "fold",
            "methods": run.arm(arm).methods,
            "data": {"train": [{"path": data["few"], "name": "few"}]},
            "train": {"learning_rate": 2e-3, "batch_tokens": 512},
            "budget": {"epochs": 10},
        },
    ]
    given = {
        "train": [{"path": data["few"], "name": "train"}],
        "eval": [{"path": data["eval"], "name": "eval"}],
        "validation": None,
        "template": "{label}",
    }
    return run.trial(
        arm,
        seed,
        model=towers(seed),
        task="zero-shot-image-classification",
        data=given,
        stages=stages,
        **more,
    )
