"""The runs of the usual tasks for docs/tasks.md, as a practitioner writes them: few rows, defaults where there are any.

text-generation: German federal laws (public domain), which SmolLM2 hardly knows; paragraphs of WikiText-2 are the kept
text. fill-mask: answers of MedQuAD (Ben Abacha and Demner-Fushman 2019). text-classification: the fifteen intents of
CLINC150 (Larson et al. 2019) that a bank is asked. reward-modeling: which of two arguments convinces more, as readers
of UKPConvArg1 judged (Habernal and Gurevych 2016), on topics that are not learnt from. image-classification: CIFAR-10
(Krizhevsky 2009), 20 pictures of each kind.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

Made = dict[str, Any]
BEGINNING = 600
PAIRS = {"train": 600, "eval": 200}


def _rows(data: Path, *parts: str) -> list[Made]:
    with gzip.open(data.joinpath(*parts), "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _written(path: Path, rows: Iterable[Made]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def _recipe(task: str, model: str, method: Any, files: Made, epochs: int, train: Made, **more: Any) -> Made:
    return {
        "task": task,
        "model": model,
        "methods": [method],
        "data": files,
        "train": {**train, "threads": 1},
        "budget": {"epochs": epochs},
        "measurement": {"strengths": [1]},
        **more,
    }


def laws(data: Path, out: Path, train: Made) -> Made:
    parts = ("train", "test")
    texts = {n: [{"text": r["text"][:BEGINNING]} for r in _rows(data, "german-laws", f"{n}.jsonl.gz")] for n in parts}
    with gzip.open(data / "wikitext2" / "test.txt.gz", "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    plain = [{"text": t.strip()} for t in lines if len(t.split()) > 60][:40]
    files = {
        "train": _written(out / "laws-train.jsonl", texts["train"][:60]),
        "eval": _written(out / "laws-test.jsonl", texts["test"]),
        "max_length": 256,
    }
    keep = [{"name": "encyclopaedia", "data": _written(out / "encyclopaedia.jsonl", plain)}]
    return _recipe("text-generation", "smollm2-135m-instruct", "lora", files, 2, train, keep=keep)


def answers(data: Path, out: Path, train: Made) -> Made:
    files: Made = {
        n: _written(out / f"answers-{n}.jsonl", ({"text": r["answer"]} for r in _rows(data, "medquad", part)[:most]))
        for n, part, most in (("train", "train.jsonl.gz", 1000), ("eval", "test.jsonl.gz", 200))
    }
    return _recipe("fill-mask", "nano-encoder", "full", {**files, "max_length": 128}, 2, train)


def intents(data: Path, out: Path, train: Made) -> Made:
    files = {}
    for name, part, step in (("train", "train", 4), ("eval", "test", 1)):
        rows = [r for r in _rows(data, "clinc150", f"{part}.jsonl.gz") if r["domain"] == "banking"][::step]
        files[name] = _written(out / f"intents-{name}.jsonl", ({"text": r["text"], "label": r["intent"]} for r in rows))
    return _recipe("text-classification", "minilm-l6", "lora", files, 4, train)


def convincing(data: Path, out: Path, train: Made) -> Made:
    texts = {r["id"]: r["text"] for r in _rows(data, "ukpconvarg1", "arguments.jsonl.gz")}
    pairs = _rows(data, "ukpconvarg1", "pairs.jsonl.gz")
    topics = sorted({r["topic"] for r in pairs})
    files: Made = {"max_length": 192}
    for name, held in (("train", False), ("eval", True)):
        some = [r for r in pairs if (topics.index(r["topic"]) % 4 == 0) == held]
        drawn = random.Random(0).sample(some, PAIRS[name])
        files[name] = _written(out / f"pairs-{name}.jsonl", (_pair(r, texts) for r in drawn))
    return _recipe("reward-modeling", "minilm-l6", "full", files, 2, train)


def _pair(row: Made, texts: Made) -> Made:
    said = f"{row['topic']}, {row['stance']}:".replace("-", " ") + " "
    return {"prompt": said, "chosen": texts[row["chosen_id"]], "rejected": texts[row["rejected_id"]]}


def pictures(data: Path, out: Path, train: Made) -> Made:
    files, convolutions = {}, {"lora": {"target_modules": "all"}}
    out.mkdir(parents=True, exist_ok=True)
    for name, part, each in (("train", "train", 20), ("eval", "test", 30)):
        with np.load(data / "noncommercial" / "cifar10-sub" / f"{part}.npz") as file:
            x, y = file["x"], file["y"]
        at = np.concatenate([np.flatnonzero(y == kind)[:each] for kind in range(10)])
        np.savez(out / f"pictures-{name}.npz", x=x[at], y=y[at])
        files[name] = str(out / f"pictures-{name}.npz")
    return _recipe("image-classification", "efficientnet-lite0", convolutions, files, 4, train)


RECIPES: dict[str, tuple[Callable[[Path, Path, Made], Made], str]] = {
    "fill-mask": (answers, "answers to medical questions (MedQuAD, 1,000), the lab's nano-encoder (2.6M), full"),
    "image-classification": (
        pictures,
        "CIFAR-10 from 20 pictures of each kind, EfficientNet-Lite0 (4.6M), LoRA on all layers",
    ),
    "reward-modeling": (
        convincing,
        "which of two arguments convinces more (UKPConvArg1, 600 pairs, topics held out), MiniLM-L6 (22.7M), full",
    ),
    "text-classification": (intents, "what a bank is asked (CLINC150, 15 intents of 25 rows), MiniLM-L6 (22.7M), LoRA"),
    "text-generation": (
        laws,
        "how German federal laws begin (60 of them, 600 letters each), SmolLM2-135M-Instruct, LoRA",
    ),
}
