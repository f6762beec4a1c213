"""What is found on a picture and what is there, as texts, which metrics compare and a reader can read: JSON lists.

- what a model says: [["cat", 0.93, [10.0, 20.0, 30.0, 40.0]], ...], the surest first, MOST of them at most;
- what is right: [["cat", [10.0, 20.0, 30.0, 40.0]], ...], with true behind the box of a crowd.

Boxes are left, top, right, bottom in pixels of the picture.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 100
"""Boxes of a picture that count, the surest, as in COCO's evaluation."""
DIGITS, PLACES = 6, 2
"""Digits of a score, and decimals of a pixel, that are kept: what lies below hangs on how rows lie in batches."""


def said(names: Sequence[str], classes: Sequence[int], scores: NDArray[Any], corners: NDArray[Any]) -> str:
    """The text of what a model says: classes [N], scores [N] and corners [N, 4], in any order."""
    order = np.argsort(-np.round(scores, DIGITS), kind="stable")[:MOST]
    return json.dumps(
        [[names[classes[i]], round(float(scores[i]), DIGITS), _box(corners[i])] for i in order], ensure_ascii=False
    )


def right(names: Sequence[str], classes: Sequence[int], corners: NDArray[Any], crowd: Sequence[bool]) -> str:
    """The text of what is right."""
    rows = [
        [names[k], _box(box), *([True] if many else [])] for k, box, many in zip(classes, corners, crowd, strict=True)
    ]
    return json.dumps(rows, ensure_ascii=False)


def _box(corners: NDArray[Any]) -> list[float]:
    return [round(float(v), PLACES) for v in corners]


def read_said(text: str) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """Names, scores [N] and corners [N, 4]."""
    rows = json.loads(text)
    return [r[0] for r in rows], np.array([r[1] for r in rows], float), _corners([r[2] for r in rows])


def read_right(text: str) -> tuple[list[str], NDArray[np.float64], NDArray[np.bool_]]:
    """Names, corners [N, 4], and which are crowds [N]."""
    rows = json.loads(text)
    return [r[0] for r in rows], _corners([r[1] for r in rows]), np.array([len(r) > 2 for r in rows], bool)


def _corners(boxes: Sequence[Any]) -> NDArray[np.float64]:
    return np.array(boxes, np.float64).reshape(-1, 4)
