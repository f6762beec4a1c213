"""The data sets that the defaults are fitted and judged on, as files that a user would have.

Each is shuffled once by a fixed seed; the first rows are evaluated on, the next ones trained on, so that a smaller
training set is a part of a larger one and no evaluated row is ever trained on.
"""

from __future__ import annotations

import gzip
import io
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

EVALUATED = 300
"""Rows that are measured on."""
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class DataSet:
    """A data set of the table: `kind` of task, the base that is adapted, and how its rows are read.

    `fits`: the rule was fitted on it; the others judge. `metric` is what gain is counted in.
    """

    name: str
    kind: str
    model: str
    metric: str
    fits: bool
    read: Callable[[Path], Rows]
    evaluated: int = EVALUATED


def _lines(file: Path) -> Iterable[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as text:
        for line in text:
            yield json.loads(line)


def _induction(folder: Path) -> Rows:
    """Short instructions with one right answer each: the words of the instruction, the input, the answer."""
    return [
        {"prompt": f"{row['instruction']}\n{row['input']}", "completion": row["output"]}
        for row in _lines(folder / "instruction-induction" / "train.jsonl.gz")
    ]


def _dolly(folder: Path) -> Rows:
    """Questions and instructions with short answers that people wrote."""
    rows = _lines(folder / "dolly-short" / "train.jsonl.gz")
    return [{"prompt": row["instruction"], "completion": row["response"]} for row in rows]


def _banking(folder: Path) -> Rows:
    """Customers' messages of the twelve commonest intents, answered in words."""
    rows = list(_lines(folder / "banking77" / "train.jsonl.gz"))
    common = {label for label, _ in Counter(row["label"] for row in rows).most_common(12)}
    return [{"prompt": r["text"], "completion": r["label"].replace("_", " ")} for r in rows if r["label"] in common]


def _clinc(folder: Path) -> Rows:
    """Queries and their domain, one of ten."""
    rows = _lines(folder / "clinc150" / "train.jsonl.gz")
    return [{"text": row["text"], "label": row["domain"]} for row in rows if row["intent"] != "oos"]


def _sentiment(folder: Path) -> Rows:
    """Sentences of reviews from several domains, good or bad."""
    rows = _lines(folder / "sentiment-domains" / "train.jsonl.gz")
    return [{"text": row["text"], "label": ("bad", "good")[int(row["label"])]} for row in rows]


def _digits(folder: Path) -> Rows:
    """Handwritten digits turned by a right angle, as pictures of 28 x 28: the base knows them upright."""
    z = np.load(folder / "mnist" / "train.npz")
    return _pictures(np.rot90(z["x"][:8000], axes=(1, 2)).copy(), [str(i) for i in z["y"][:8000]])


def _things(folder: Path) -> Rows:
    """Small photographs of ten kinds of things."""
    z = np.load(folder / "noncommercial" / "cifar10-sub" / "train.npz")
    test = np.load(folder / "noncommercial" / "cifar10-sub" / "test.npz")
    x, y = np.concatenate([z["x"], test["x"]]), np.concatenate([z["y"], test["y"]])
    return _pictures(x, [str(z["names"][i]) for i in y])


def _pictures(x: np.ndarray, labels: list[str]) -> Rows:
    return [{"image": picture, "label": label} for picture, label in zip(x, labels, strict=True)]


def _shakespeare(folder: Path) -> Rows:
    """Speeches of plays, a row each."""
    with gzip.open(folder / "tinyshakespeare" / "train.txt.gz", "rt", encoding="utf-8") as text:
        return [{"text": speech} for speech in text.read().split("\n\n") if speech.strip()]


def _verses(folder: Path) -> Rows:
    """Verses in Manx and in Basque of 1571, languages that the base has hardly seen."""
    rows = _lines(folder / "bible-lowres" / "train.jsonl.gz")
    return [{"text": row["text"]} for row in rows if row["lang"] in ("glv", "eus-1571")]


def _genesis(folder: Path) -> Rows:
    """Verses of one old book in five languages other than English."""
    rows = _lines(folder / "genesis-multilingual" / "train.jsonl.gz")
    return [{"text": row["text"]} for row in rows if row["lang"] != "en"]


def _laws(folder: Path) -> Rows:
    """Short paragraphs of German laws."""
    texts = (row["text"] for row in _lines(folder / "german-laws" / "train.jsonl.gz"))
    parts = (part.strip() for text in texts for part in text.split("\n\n"))
    return [{"text": part} for part in parts if 60 <= len(part) <= 240]


def _japanese(folder: Path) -> Rows:
    """Short English sentences and what they are in Japanese."""
    rows = _lines(folder / "tanaka-enja" / "train.jsonl.gz")
    return [{"prompt": row["en"], "completion": row["ja"]} for row in rows]


def _harmless(folder: Path) -> Rows:
    """Dialogues with a chosen and a rejected answer; only the first turn of each answer, and short dialogues."""
    rows = [
        {"prompt": row["prompt"], "chosen": row["chosen"].split("\n\nHuman:")[0].strip()}
        | {"rejected": row["rejected"].split("\n\nHuman:")[0].strip()}
        for part in ("train", "valid", "test")
        for row in _lines(folder / "hh-rlhf-harmless" / f"{part}.jsonl.gz")
    ]
    return [r for r in rows if sum(map(len, r.values())) < 700 and r["chosen"] and r["rejected"] != r["chosen"]]


def _arguments(folder: Path) -> Rows:
    """Pairs of arguments for one side of a question, the more convincing one chosen."""
    said = {row["id"]: row["text"] for row in _lines(folder / "ukpconvarg1" / "arguments.jsonl.gz")}
    rows = []
    for pair in _lines(folder / "ukpconvarg1" / "pairs.jsonl.gz"):
        chosen, rejected = said[pair["chosen_id"]], said[pair["rejected_id"]]
        if len(chosen) + len(rejected) < 700:
            question = f"{pair['topic']}: {pair['stance']}".replace("-", " ")
            rows.append({"prompt": question, "chosen": chosen, "rejected": rejected})
    return rows


TABLE = (
    DataSet("banking77", "text generation", "nano", "exact_match", True, _banking),
    DataSet("clinc150", "text classification", "minilm-l6", "accuracy", True, _clinc),
    DataSet("mnist", "pictures", "nano-vit", "accuracy", True, _digits),
    DataSet("tinyshakespeare", "continued pre-training", "nano", "loss", True, _shakespeare),
    DataSet("hh-rlhf-harmless", "preferences", "nano", "pair_accuracy", True, _harmless),
    DataSet("instruction-induction", "text generation", "nano", "loss", True, _induction),
    DataSet("dolly-short", "text generation", "nano", "loss", True, _dolly),
    DataSet("bible-lowres", "continued pre-training", "nano", "loss", True, _verses),
    DataSet("genesis-multilingual", "continued pre-training", "nano", "loss", True, _genesis),
    DataSet("sentiment-domains", "text classification", "minilm-l6", "accuracy", False, _sentiment),
    DataSet("cifar10", "pictures", "efficientnet-lite0", "accuracy", False, _things),
    DataSet("tanaka-enja", "text generation", "nano", "loss", False, _japanese),
    DataSet("german-laws", "continued pre-training", "nano", "loss", False, _laws),
    DataSet("ukpconvarg1", "preferences", "nano", "pair_accuracy", False, _arguments),
)
"""Nine to fit the rule on, five to judge it."""


def write(data: DataSet, source: Path, folder: Path, size: int) -> tuple[Path, Path, int]:
    """Files of `size` training rows (or as many as there are) and of those to measure on; how many are trained on."""
    rows = data.read(source)
    random.Random(0).shuffle(rows)
    evaluated, train = rows[: data.evaluated], rows[data.evaluated : data.evaluated + size]
    return file_of(folder / "train", train), file_of(folder / "eval", evaluated), len(train)


def file_of(path: Path, rows: Rows) -> Path:
    """Write rows as JSON lines, or pictures as an NPZ file; where they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if "image" in rows[0]:
        names = sorted({row["label"] for row in rows})
        buffer = io.BytesIO()
        y = np.array([names.index(row["label"]) for row in rows])
        np.savez_compressed(buffer, x=np.stack([row["image"] for row in rows]), y=y, names=np.array(names))
        path = path.with_suffix(".npz")
        path.write_bytes(buffer.getvalue())
        return path
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
