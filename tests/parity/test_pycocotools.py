"""Average precision beside pycocotools, to the last digit: classes, crowds, empty pictures, equal scores."""

from __future__ import annotations

import contextlib
import io
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tunewright.measure.boxes import mean_precision, mean_recall, precision_by_class

pytest.importorskip("pycocotools")

NAMES = ["cat", "dog", "bird"]


def drawn(seed: int) -> list[tuple[list[Any], list[Any]]]:
    """(what is said, what is there) of some pictures: near what is there, elsewhere, of another class, of a crowd."""
    rng, out = np.random.default_rng(seed), list[tuple[list[Any], list[Any]]]()
    for _ in range(12):
        there, said = list[Any](), list[Any]()
        for _ in range(rng.integers(0, 6)):
            low = rng.uniform(0, 60, 2)
            corners = [*low, *(low + rng.uniform(4, 40, 2))]
            kind = NAMES[rng.integers(0, 3 if seed % 2 else 2)]
            there.append([kind, np.round(corners, 2).tolist(), *([True] if rng.random() < 0.15 else [])])
            for _ in range(rng.integers(0, 4)):
                near = np.round(np.array(corners) + rng.normal(0, 2, 4), 2).tolist()
                other = kind if rng.random() < 0.8 else NAMES[rng.integers(0, 3)]
                said.append([other, round(float(rng.random()), 1 if seed > 5 else 6), near])
        out.append(([s for s in said if s[2][2] > s[2][0] and s[2][3] > s[2][1]], there))
    return out


def theirs(pictures: list[tuple[list[Any], list[Any]]]) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def wide(box: list[float]) -> list[float]:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    annotations = [
        {
            "id": 0,
            "image_id": i,
            "category_id": NAMES.index(one[0]),
            "bbox": wide(one[1]),
            "area": wide(one[1])[2] * wide(one[1])[3],
            "iscrowd": int(len(one) > 2),
        }
        for i, (_, there) in enumerate(pictures)
        for one in there
    ]
    annotations = [{**a, "id": k + 1} for k, a in enumerate(annotations)]
    results = [
        {"image_id": i, "category_id": NAMES.index(k), "bbox": wide(b), "score": s}
        for i, (said, _) in enumerate(pictures)
        for k, s, b in sorted(said, key=lambda one: -one[1])
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i, "width": 100, "height": 100} for i in range(len(pictures))],
            "annotations": annotations,
            "categories": [{"id": k, "name": name} for k, name in enumerate(NAMES)],
        }
        coco.createIndex()
        made = COCOeval(coco, coco.loadRes(results), "bbox")
        made.evaluate()
        made.accumulate()
        made.summarize()
    return made


@pytest.mark.parametrize("seed", range(8))
def test_figures_are_those_of_pycocotools(seed: int) -> None:
    pictures = drawn(seed)
    rows = [
        SimpleNamespace(
            answer=json.dumps(sorted(said, key=lambda one: -one[1])), reference=json.dumps(there), score=0.0
        )
        for said, there in pictures
    ]
    made = theirs(pictures)
    stats = made.stats
    assert 0 < stats[0] < 1
    ours = [mean_precision()(rows), mean_precision(0.5)(rows), mean_precision(0.75)(rows), mean_recall(rows)]
    assert np.allclose(ours, [stats[0], stats[1], stats[2], stats[8]], rtol=0, atol=1e-12)
    by_class = made.eval["precision"][:, :, :, 0, -1].mean((0, 1))
    wanted = {name: value for name, value in zip(NAMES, by_class, strict=True) if value > -1}
    assert precision_by_class(rows) == pytest.approx(wanted, abs=1e-12)
