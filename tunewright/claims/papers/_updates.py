"""A model of pictures and texts that is updated again and again, for claims about streams of updates.

The towers of `_two_towers` have learnt sixty coloured digits upright. Four updates follow, each of the same classes
seen otherwise (turned by a right angle, transposed, in negative, with noise), each under one budget of operations. Half
of what is judged is upright (what was retained), half of the four ways in equal parts (what was accumulated).
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.claims.lab import corpus
from tunewright.claims.papers import _two_towers as towers
from tunewright.files.cache import cache_folder

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

Way = Callable[[np.ndarray, np.random.Generator], np.ndarray]

WAYS: dict[str, Way] = {
    "turned": lambda x, rng: np.rot90(x),
    "transposed": lambda x, rng: x.T,
    "negative": lambda x, rng: 255 - x,
    "noisy": lambda x, rng: np.clip(x + rng.normal(0, 90, x.shape), 0, 255),
}
SHOWN, JUDGED = 20, 4
"""Pictures of each class in an update, and upright ones that are judged; a fourth as many of each way."""
FLOPS = 1.5e11
"""Of each update: about four passes over its pictures when all weights train."""


def _rows(part: str, way: Way | None, count: int) -> tuple[list[np.ndarray], list[str]]:
    """`count` pictures of each class, seen in a way (none: upright), and their texts."""
    held = np.load(corpus.data_folder() / "mnist" / ("test.npz" if part == "eval" else "train.npz"))
    x, y, rng = held["x"], held["y"], np.random.default_rng(len(part) + count)
    pictures, said = [], []
    for colour, tone in towers.COLOURS.items():
        for digit, word in enumerate(towers.DIGITS):
            for at in rng.choice(np.flatnonzero(y == digit), count, replace=False):
                seen = x[at] if way is None else way(x[at].astype(np.float64), rng)
                pictures.append((seen[..., None] * np.array(tone)).astype(np.uint8))
                said.append(f"{colour} {word}.")
    return pictures, said


def _written(part: str, pictures: list[np.ndarray], said: list[str]) -> str:
    names = list(dict.fromkeys(said))
    x, labels, buffer = np.stack(pictures), [names.index(s) for s in said], io.BytesIO()
    np.savez_compressed(buffer, x=x, y=np.array(labels), names=np.array(names))
    path = cache_folder() / "lab" / f"updates-{hashlib.sha256(x.tobytes()).hexdigest()[:16]}" / f"{part}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{part}.{os.getpid()}.partial")
        aside.write_bytes(buffer.getvalue())
        aside.replace(path)
    return str(path)


@cache
def files() -> dict[str, str]:
    """`eval`, and the pictures of each update by its way."""
    judged = [_rows("eval", None, JUDGED), *(_rows("eval", way, JUDGED // len(WAYS)) for way in WAYS.values())]
    together = [p for pictures, _ in judged for p in pictures], [s for _, said in judged for s in said]
    return {"eval": _written("eval", *together), **{n: _written(n, *_rows(n, w, SHOWN)) for n, w in WAYS.items()}}


@cache
def base() -> str:
    """The folder of towers that know all classes upright, made once."""
    from tunewright.finished.export import export
    from tunewright.runs.run import run

    upstream = towers.files()["upstream"]
    folder = cache_folder() / "lab" / f"updates-base-{hashlib.sha256(upstream.encode()).hexdigest()[:16]}"
    if not (folder / "model").is_dir():
        recipe = {
            "name": "towers",
            "model": towers.towers(0),
            "task": "zero-shot-image-classification",
            "data": {"train": [{"path": upstream, "name": "upstream"}], "template": "{label}"},
            "methods": ["full"],
            "train": {
                "learning_rate": 1e-3,
                "batch_tokens": 2048,
                "precision": "float32",
                "threads": 1,
                "device": "cpu",
            },
            "budget": {"epochs": 12},
            "measurement": {"strengths": [1.0]},
        }
        with tempfile.TemporaryDirectory() as work:
            made = run(recipe, Path(work) / "run", quiet=True)
            export(made.folder, Path(work) / "model", quiet=True)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.move(Path(work) / "model", folder / "model")
    return str(folder / "model")


def updated(run: ClaimRun, arm: str, seed: int, **more: Any) -> Any:
    """The record of a run of all updates by the arm's methods, one after the other."""
    data, start = files(), "base"
    stages: list[dict[str, Any]] = []
    for way in WAYS:
        stages.append(
            {
                "name": way,
                "start": start,
                "carry": "fold",
                "methods": run.arm(arm).methods,
                "data": {"train": [{"path": data[way], "name": way}]},
                "train": {"learning_rate": 1e-3, "batch_tokens": 1024},
                "budget": {"flops": FLOPS},
            }
        )
        start = f"stages.{way}"
    given = {
        "train": [{"path": data["turned"], "name": "train"}],
        "eval": [{"path": data["eval"], "name": "eval"}],
        "validation": None,
        "template": "{label}",
    }
    return run.trial(arm, seed, model=base(), task="zero-shot-image-classification", data=given, stages=stages, **more)
