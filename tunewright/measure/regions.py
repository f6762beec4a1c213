"""How far predicted regions are those of the mask: intersection over union and its kin, as `evaluate`'s `mean_iou`
counts them (its `reduce_labels` off): of all pictures' pixels together, over the classes that are there or are said.

Rows say how many pixels of each class are said to be of which ("road:110 road>sky:10", `tasks.image_segmentation`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

from tunewright.contract.metric import Answered

Counts = dict[str, tuple[int, int, int]]
"""class -> pixels (said rightly, said, there)."""


@lru_cache(maxsize=1 << 16)
def _pairs(answer: str) -> dict[tuple[str, str], int]:
    """(class, what it is said to be) -> pixels of one row."""
    out = {}
    for word in answer.split():
        name, _, count = word.rpartition(":")
        right, _, said = name.partition(">")
        out[right, said or right] = int(count)
    return out


@lru_cache(maxsize=1024)  # each figure and part is counted over the same draws of rows
def _counts(answers: tuple[str, ...]) -> Counts:
    pairs = Counter[tuple[str, str]]()
    for answer in answers:
        pairs.update(_pairs(answer))
    right, said, there = Counter[str](), Counter[str](), Counter[str]()
    for (a, b), n in pairs.items():
        there[a] += n
        said[b] += n
        right[a] += n * (a == b)
    return {name: (right[name], said[name], there[name]) for name in sorted(said | there)}


def _of(rows: Sequence[Answered]) -> Counts:
    return _counts(tuple([row.answer for row in rows]))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def iou_by_class(rows: Sequence[Answered]) -> dict[str, float]:
    """Intersection over union of each class, in the order of the alphabet."""
    return {name: right / (said + there - right) for name, (right, said, there) in _of(rows).items()}


def iou_of_those_there(rows: Sequence[Answered]) -> dict[str, float]:
    """The same of each class that masks have: one that is only said is there or not as a model says it."""
    there = {name for name, (_, _, count) in _of(rows).items() if count}
    return {name: value for name, value in iou_by_class(rows).items() if name in there}


def mean_iou(rows: Sequence[Answered]) -> float:
    """The mean of `iou_by_class`."""
    return _mean([*iou_by_class(rows).values()])


def overall_accuracy(rows: Sequence[Answered]) -> float:
    """The share of pixels that are said rightly."""
    counts = _of(rows).values()
    return sum(right for right, _, _ in counts) / sum(there for _, _, there in counts)


def mean_accuracy(rows: Sequence[Answered]) -> float:
    """The share of each class's pixels that are said rightly: the mean over classes that are there."""
    return _mean([right / there for right, _, there in _of(rows).values() if there])


def of_row(figure: Callable[[Sequence[Answered]], float]) -> Callable[[str, str], float]:
    """A figure of one row, from what is said of it."""
    return lambda answer, reference: figure([_Said(answer, reference)])


class _Said:
    """One row."""

    score = 0.0

    def __init__(self, answer: str, reference: str):
        self.answer, self.reference = answer, reference
