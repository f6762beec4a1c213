"""What object-detection is checked on: a tiny YOLOS, and pictures with a warm or a cold square on the ground."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.conformance.task_case import TaskExample

SIDE = 16
CLASSES = ("cold", "warm")
_COLOURS = {"cold": (20, 30, 200), "warm": (210, 40, 20)}


def yolos(labels: int = len(CLASSES), side: int = SIDE, proposals: int = 5) -> Any:
    """A YOLOS of two blocks for pictures [3, side, side], without dropout."""
    from transformers import YolosConfig, YolosForObjectDetection

    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": [side, side],
        "patch_size": 4,
        "num_detection_tokens": proposals,
        "use_mid_position_embeddings": False,
        "num_labels": labels,
    }
    return YolosForObjectDetection(YolosConfig(**sizes))


def processor(side: int = SIDE) -> Any:
    """What prepares its pictures: each is stretched to a square."""
    from transformers import YolosImageProcessorPil

    return YolosImageProcessorPil(size={"height": side, "width": side})


def objects(i: int) -> dict[str, Any]:
    """COCO's boxes of picture `i`: one or two squares; every fifth picture shows none."""
    step = SIDE * (1 + i % 2) // 4
    where = [(i % 3, (i // 3) % 2, i % 2)] + ([(1, 3, (i + 1) % 2)] if i % 4 == 2 else [])
    kept = where if i % 5 != 3 else []
    return {
        "bbox": [[x * step, y * step, step + 1, step] for x, y, _ in kept],
        "category": [CLASSES[k] for _, _, k in kept],
    }


def _files(folder: Path) -> None:
    from PIL import Image

    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        side = SIDE * (1 + i % 2)
        pixels = rng.integers(60, 100, (side, side, 3), dtype=np.uint8)
        found = objects(i)
        for (x, y, w, h), kind in zip(found["bbox"], found["category"], strict=True):
            pixels[y : y + h, x : x + w] = _COLOURS[kind]
        Image.fromarray(pixels).save(folder / "pictures" / f"{i}.png")


def _right(row: Mapping[str, Any]) -> str:
    found = row["objects"]
    boxes = [[x, y, x + w, y + h] for x, y, w, h in found["bbox"]]
    return json.dumps([[k, [float(v) for v in b]] for k, b in zip(found["category"], boxes, strict=True)])


def _over(a: Sequence[float], b: Sequence[float]) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, wide) * max(0.0, high)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def _figure(pairs: Sequence[tuple[str, str]]) -> float:
    """Mean average precision, box by box, from the definition."""
    rows = [(json.loads(a), json.loads(b)) for a, b in pairs]
    out = list[float]()
    for name in CLASSES:
        there = sum(k == name for _, right in rows for k, _ in right)
        for least in np.linspace(0.5, 0.95, 10) if there else ():
            told = list[tuple[float, bool]]()
            for said, right in rows:
                free = [b for k, b in right if k == name]
                for _, score, box in (s for s in said if s[0] == name):
                    best = max(free, key=lambda b: _over(box, b), default=None)
                    hit = best is not None and _over(box, best) >= least
                    told.append((score, hit))
                    if hit and best is not None:
                        free.remove(best)
            told.sort(key=lambda t: -t[0])
            hits = np.cumsum([hit for _, hit in told]) if told else np.zeros(0)
            precision = hits / np.arange(1, len(told) + 1)
            reached = [precision[hits >= r * there - 1e-9] for r in np.linspace(0, 1, 101)]
            out.append(float(np.mean([p.max() if len(p) else 0.0 for p in reached])))
    return float(np.mean(out)) if out else 0.0


def object_detection() -> TaskExample:
    """The example of the task."""

    def row(i: int, **other: Any) -> dict[str, Any]:
        return {"image": f"pictures/{i}.png", "objects": {**objects(i), **other}}

    def one(box: Any, kind: Any = "warm") -> dict[str, Any]:
        return row(0, bbox=[box], category=[kind])

    return TaskExample(
        model=yolos,
        reader=processor(),
        rows=[row(i) for i in range(12)],
        bad={
            "no such picture": ({**row(0), "image": "pictures/none.png"}, "image"),
            "a box outside of the picture": (one([10, 10, 10, 4]), "objects"),
            "a box without an area": (one([1, 1, 0, 4]), "objects"),
            "a box of a negative size": (one([4, 4, -2, 2]), "objects"),
            "a box that is no number": (one([1, 1, float("nan"), 4]), "objects"),
            "a box of three numbers": (one([1, 1, 4]), "objects"),
            "a class that there is not": (one([1, 1, 4, 4], "lukewarm"), "objects"),
            "more boxes than classes": (row(0, category=[]), "objects"),
            "objects that are null": ({**row(0), "objects": None}, "objects"),
        },
        labels=CLASSES,
        right=_right,
        figure=_figure,
        files=_files,
        learning_rate=0.01,
    )
