"""An open world for claims about OASIS: digits with a long tail of classes and one that nobody learns, then a stream in
which all classes are alike and looks change.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from tunewright.claims.lab import corpus, rows

MOST, LEAST, PASSES = 200, 4, 6
STREAM: dict[str, Any] = {
    "corruptions": ["contrast:2", "brightness:3", "contrast:3", "brightness:5"],
    "rows": 200,
    "batch_rows": 50,
}


def counts(seed: int) -> dict[int, int]:
    """Rows to learn from of each class, from `MOST` down to `LEAST` in equal ratios, and of the last none."""
    classes = rows.shuffled(range(10), seed)
    ratio = (LEAST / MOST) ** (1 / 8)
    return {c: round(MOST * ratio**i) for i, c in enumerate(classes[:9])} | {classes[9]: 0}


@cache
def digits(seed: int) -> dict[str, str]:
    """Files of turned digits: `train` with its long tail, `eval` as the lab has it, `rare` (new ones of the four
    classes with the fewest rows that are learnt from).
    """
    folder = corpus.data_folder() / "mnist"
    train, test = np.load(folder / "train.npz"), np.load(folder / "test.npz")
    turned, label = np.rot90(train["x"][50_000:], 1, axes=(1, 2)), train["y"][50_000:]
    of = counts(seed)
    places = np.concatenate([np.flatnonzero(label == c)[:n] for c, n in of.items()])
    places = np.random.default_rng(seed).permutation(places)
    new, known = np.rot90(test["x"], 1, axes=(1, 2)), test["y"]
    few = sorted((c for c in of if of[c]), key=of.__getitem__)[:4]
    rare = np.flatnonzero(np.isin(known, few))[:400]
    name = f"open-world-{seed}"
    return {
        "train": rows.pictures(name, "train", turned[places], label[places]),
        "eval": rows.pictures(name, "eval", new[:400], known[:400]),
        "rare": rows.pictures(name, "rare", new[rare], known[rare]),
    }


def data(seed: int, judged: str) -> dict[str, Any]:
    """The data of a run that learns from the long tail and is measured on `judged`."""
    found = digits(seed)
    return {
        "train": [{"path": found["train"], "name": "train"}],
        "eval": [{"path": found[judged], "name": "eval"}],
        "validation": None,
        "labels": [str(c) for c in range(10)],
    }
