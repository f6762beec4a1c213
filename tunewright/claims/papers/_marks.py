"""Digits with a mark that gives the class away in training and not when judged: what claims about shifted data
share.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from tunewright.claims.lab import corpus, rows
from tunewright.claims.merging import HELD


def marked(x: np.ndarray, y: np.ndarray, follows: float, seed: int, blank: bool = False) -> np.ndarray:
    """Pictures [n, 28, 28] with a bright block of 4 x 2 pixels in the two top rows, its place told by the class in a
    share `follows` of them and by chance in the others. `blank`: the digit is taken out."""
    rng = np.random.default_rng(seed)
    place = np.where(rng.random(len(y)) < follows, y, rng.integers(0, 10, len(y)))
    out = np.zeros_like(x) if blank else x.copy()
    for i, k in enumerate(place):
        out[i, :4, 2 * k + 4 : 2 * k + 6] = 255
    return out


@cache
def files(follows: float = 0.9, train: int = 2000, blank: bool = False) -> dict[str, str]:
    """train and validation, where the mark mostly follows the class, and eval, where it is drawn by chance."""
    folder = corpus.data_folder() / "mnist"
    pictures, test = np.load(folder / "train.npz"), np.load(folder / "test.npz")
    paths = {}
    for part, source, start, size, share in (
        ("train", pictures, HELD, train, follows),
        ("validation", pictures, HELD + 8000, 300, follows),
        ("eval", test, 2000, 600, 0.0),
    ):
        y = source["y"][start : start + size]
        x = marked(source["x"][start : start + size], y, share, start, blank)
        paths[part] = rows.pictures(f"marked-{follows:g}-{train}{'-blank' * blank}", part, x, y)
    return paths


def data(follows: float = 0.9, train: int = 2000, blank: bool = False) -> dict[str, Any]:
    """A recipe's `data` of such pictures."""
    return {part: [{"path": path}] for part, path in files(follows, train, blank).items()}
