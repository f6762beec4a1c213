"""How well things are found and placed: average precision, as COCO counts it (pycocotools' defaults; areas of all
sizes): of each class over all pictures' boxes together, the mean over classes that are there.

A picture's boxes of a class are matched with what is there from the surest on, each with the free one that it lies
over most, if their intersection over union reaches a threshold. What is then found of a crowd is neither right nor
wrong. Precision is read at 101 recalls, each the best at that recall or above.

Shapes: N boxes that are said, M that are there, T thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tunewright.contract.metric import Answered
from tunewright.tasks._detections import read_right, read_said

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Intersections over union from which a box counts as found."""
RECALLS = np.linspace(0, 1, 101)

Boxes = NDArray[np.float64]


def iou(said: Boxes, there: Boxes, crowd: NDArray[np.bool_] | None = None) -> Boxes:
    """[N, M] intersection over union of boxes of corners [N, 4] and [M, 4]; over the first one's area where the second
    is a `crowd`. 0 where neither has an area.
    """
    low, high = (f(said[:, None, k], there[None, :, k]) for f, k in ((np.maximum, slice(2)), (np.minimum, slice(2, 4))))
    both = (high - low).clip(min=0).prod(-1)
    own, other = ((b[:, 2:] - b[:, :2]).clip(min=0).prod(-1) for b in (said, there))
    either = own[:, None] + other[None] - both
    if crowd is not None and len(crowd):
        either = np.where(crowd[None], own[:, None], either)
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)


@dataclass(frozen=True)
class Matched:
    """A class's boxes of one picture: `scores` [N], the surest first; `hit` and `void` [T, N]: whether each is found,
    or is of a crowd; `there`: how many could be found.
    """

    scores: NDArray[np.float64]
    hit: NDArray[np.bool_]
    void: NDArray[np.bool_]
    there: int


def match(scores: NDArray[np.float64], said: Boxes, there: Boxes, crowd: NDArray[np.bool_]) -> Matched:
    """Match the boxes of one class of one picture, said ones from the surest on."""
    order, last = np.argsort(-scores, kind="stable"), np.argsort(crowd, kind="stable")  # crowds behind the others
    overlap, many = iou(said[order], there[last], crowd[last]), crowd[last]
    single = len(many) - int(many.sum())
    hit, void = np.zeros((2, len(THRESHOLDS), len(order)), bool)
    for t, least in enumerate(THRESHOLDS):
        free = np.ones(single, bool)
        for n in range(len(order)):
            best = np.where(free, overlap[n, :single], -1.0)
            # of equal ones the last, as COCO's own matching takes it
            k = single - 1 - int(np.argmax(best[::-1])) if single else -1
            if k >= 0 and best[k] >= min(least, 1 - 1e-10):
                free[k], hit[t, n] = False, True
            elif single < len(many):
                void[t, n] = overlap[n, single:].max() >= min(least, 1 - 1e-10)
    return Matched(scores[order], hit, void, single)


@lru_cache(maxsize=1 << 14)
def _of_row(answer: str, reference: str) -> dict[str, Matched]:
    """Class -> its boxes of one row, matched."""
    names, scores, said = read_said(answer)
    kinds, there, crowd = read_right(reference)
    own, other = np.array(names, object), np.array(kinds, object)
    return {
        name: match(scores[own == name], said[own == name], there[other == name], crowd[other == name])
        for name in sorted({*names, *kinds})
    }


@lru_cache(maxsize=1024)  # each figure and part is counted over the same draws of rows
def _counted(rows: tuple[tuple[str, str], ...]) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Class -> (average precision [T], recall [T]), of classes that are there."""
    by_class: dict[str, list[Matched]] = {}
    for answer, reference in rows:
        for name, matched in _of_row(answer, reference).items():
            by_class.setdefault(name, []).append(matched)
    return {n: average_precision(of) for n, of in sorted(by_class.items()) if sum(m.there for m in of)}


def average_precision(of: Sequence[Matched]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """([T] average precision, [T] recall of all that is said) of one class over pictures where it is there at all."""
    there = sum(m.there for m in of)
    order = np.argsort(-np.concatenate([m.scores for m in of]), kind="stable")
    hit, void = (np.concatenate([getattr(m, name) for m in of], 1)[:, order] for name in ("hit", "void"))
    found, wrong = hit.cumsum(1), (~hit & ~void).cumsum(1)
    precision = found / np.maximum(found + wrong, np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    out = np.zeros(len(THRESHOLDS))
    for t in range(len(THRESHOLDS)):
        at = np.searchsorted(found[t] / there, RECALLS, side="left")
        out[t] = np.append(best[t], 0.0)[at].mean()
    return out, found[:, -1] / there if found.shape[1] else np.zeros(len(THRESHOLDS))


def _of(rows: Sequence[Answered]) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    return _counted(tuple([(row.answer, row.reference) for row in rows]))


def precision_by_class(rows: Sequence[Answered]) -> dict[str, float]:
    """Each class's average precision, the mean over thresholds."""
    return {name: float(precision.mean()) for name, (precision, _) in _of(rows).items()}


def mean_precision(at: float | None = None) -> Callable[[Sequence[Answered]], float]:
    """A figure: the mean over classes that are there of their average precision at a threshold (None: the mean over
    all); 0 where nothing is there.
    """
    places = slice(None) if at is None else int(np.abs(THRESHOLDS - at).argmin())

    def figure(rows: Sequence[Answered]) -> float:
        of = [float(np.mean(precision[places])) for precision, _ in _of(rows).values()]
        return sum(of) / len(of) if of else 0.0

    return figure


def mean_recall(rows: Sequence[Answered]) -> float:
    """The share of what is there that is found, the mean over classes and thresholds; 0 where nothing is there."""
    of = [float(recall.mean()) for _, recall in _of(rows).values()]
    return sum(of) / len(of) if of else 0.0
