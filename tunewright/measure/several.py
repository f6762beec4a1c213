"""Rows with any number of labels: F1 over all decisions and a label's mean, the share of labels and of rows that are
right; as scikit-learn counts them.

Answers and references are labels with ", " between two. The labels are those that are said or right of some row: what
nobody says and nobody has would make every share larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from tunewright.contract.metric import Answered

SHOWN = 20
"""Labels of which each has a figure of its own, at most."""
Counts = dict[str, list[int]]
"""label -> rows where it is said and right, said, and right."""


@lru_cache(maxsize=1 << 16)
def _labels(text: str) -> frozenset[str]:
    return frozenset(text.split(", ")) if text else frozenset()


def _counts(rows: Sequence[Answered]) -> Counts:
    out: Counts = {}
    for row in rows:
        said, right = _labels(row.answer), _labels(row.reference)
        for label in said | right:
            counts = out.setdefault(label, [0, 0, 0])
            counts[0] += label in said and label in right
            counts[1] += label in said
            counts[2] += label in right
    return out


def _f1(hits: int, said: int, right: int) -> float:
    return 2 * hits / (said + right) if said or right else 1.0


def f1_micro(rows: Sequence[Answered]) -> float:
    """F1 of all decisions together; 1 where no label is said and none is right."""
    hits, said, right = (sum(n[k] for n in _counts(rows).values()) for k in range(3))
    return _f1(hits, said, right)


def f1_macro(rows: Sequence[Answered]) -> float:
    """The mean of the labels' F1; 1 where no label is said and none is right."""
    each = [_f1(*n) for n in _counts(rows).values()]
    return sum(each) / len(each) if each else 1.0


def accuracy(rows: Sequence[Answered]) -> float:
    """The mean over labels of the share of rows where a label is said if, and only if, it is right."""
    each = [1 - (said + right - 2 * hits) / len(rows) for hits, said, right in _counts(rows).values()]
    return sum(each) / len(each) if each else 1.0


def f1_by_label(rows: Sequence[Answered]) -> dict[str, float]:
    """F1 of each label that is right of some row, in the alphabet's order; none where there are more than SHOWN."""
    found = {label: _f1(*n) for label, n in sorted(_counts(rows).items()) if n[2]}
    return found if len(found) <= SHOWN else {}
