"""The streams that continual methods are compared on, as files that a user would have.

Each is drawn once by a fixed seed from the shared data; rows that are measured on are never trained on.
"""

from __future__ import annotations

import gzip
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.defaults_data import Rows, file_of


@dataclass(frozen=True)
class Stream:
    """A sequence of tasks: its base, its rows, how they are cut, and how long each task is learnt.

    `group`: the column of whose values equally many rows are drawn, `train` and `test` of each.
    """

    name: str
    what: str
    model: str
    task: str
    tasks: dict[str, Any]
    read: Callable[[Path], Rows]
    group: str
    train: int
    test: int
    epochs: int
    more: dict[str, Any] = field(default_factory=dict)


def _lines(file: Path) -> Iterable[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as text:
        for line in text:
            yield json.loads(line)


def _intents(folder: Path) -> Rows:
    rows = _lines(folder / "clinc150" / "train.jsonl.gz")
    return [{"text": r["text"], "label": r["intent"], "domain": r["domain"]} for r in rows if r["domain"] != "oos"]


REVIEWED = {
    "movie-snippet": "film",
    "pros-cons": "verdict",
    "product:creative_labs_nomad_jukebox_zen_xtra_40gb": "player",
    "product:apex_ad2600_progressive_scan_dvd_player": "dvd",
    "product:nokia_6600": "phone",
}


def _reviews(folder: Path) -> Rows:
    rows = _lines(folder / "sentiment-domains" / "train.jsonl.gz")
    return [
        {"text": r["text"], "label": ("bad", "good")[int(r["label"])], "about": REVIEWED[r["domain"]]}
        for r in rows
        if r["domain"] in REVIEWED
    ]


def _turned(folder: Path) -> Rows:
    z = np.load(folder / "mnist" / "train.npz")
    turned = np.rot90(z["x"][:8000], axes=(1, 2)).copy()  # the base knows them upright
    return [{"image": x, "label": str(y)} for x, y in zip(turned, z["y"][:8000], strict=True)]


def _verses(folder: Path) -> Rows:
    rows = _lines(folder / "bible-lowres" / "train.jsonl.gz")
    return [{"text": r["text"], "lang": r["lang"]} for r in rows]


STREAMS = (
    Stream(
        "intents",
        "CLINC150's 150 intents, a domain a task: ten tasks of 15 classes",
        "minilm-l6",
        "text-classification",
        {"by": "domain"},
        _intents,
        "label",
        train=10,
        test=3,
        epochs=4,
    ),
    Stream(
        "reviews",
        "good or bad, of five kinds of reviews: five tasks of the same two classes",
        "minilm-l6",
        "text-classification",
        {"by": "about"},
        _reviews,
        "about",
        train=80,
        test=40,
        epochs=3,
    ),
    Stream(
        "digits",
        "MNIST's digits turned by a right angle, two classes a task: five tasks",
        "nano-vit",
        "image-classification",
        {"by": "label", "count": 5},
        _turned,
        "label",
        train=100,
        test=40,
        epochs=4,
    ),
    Stream(
        "languages",
        "verses in four languages that the base hardly knows, a language a task",
        "nano",
        "text-generation",
        {"by": "lang"},
        _verses,
        "lang",
        train=80,
        test=24,
        epochs=3,
    ),
)


def write(stream: Stream, source: Path, folder: Path) -> tuple[Path, Path]:
    """Files of a stream's training rows and of those to measure on; ValueError where a group has too few."""
    groups: dict[str, Rows] = defaultdict(list)
    rows = stream.read(source)
    random.Random(0).shuffle(rows)
    for row in rows:
        groups[row[stream.group]].append(row)
    few = [g for g, of in groups.items() if len(of) < stream.train + stream.test]
    if few:
        raise ValueError(f"{stream.name}: too few rows of {few[:3]}")
    test = [r for g in sorted(groups) for r in groups[g][: stream.test]]
    train = [r for g in sorted(groups) for r in groups[g][stream.test : stream.test + stream.train]]
    return file_of(folder / "train", train), file_of(folder / "test", test)
