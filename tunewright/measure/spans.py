"""Spans that tags name, and their F1, by seqeval: its default reading of IOB, IOB2 and IOBES. BILOU and BMES are
brought to it.

A span counts when its place and its type are right. Source: the CoNLL-2000 and 2003 shared tasks' scoring; seqeval 1.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from tunewright.contract.metric import Answered

_AS = {"L": "E", "U": "S", "M": "I"}
"""Prefixes of BILOU and BMES as IOBES writes them."""


def spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """(type, first, last) of each span of a sequence of tags."""
    from seqeval.metrics.sequence_labeling import get_entities

    read = [_AS.get(t[0], t[0]) + t[1:] if t[1:2] == "-" else "O" for t in tags]
    return set(get_entities(read))


@lru_cache(maxsize=1 << 16)
def _counts(answer: str, reference: str) -> dict[str, tuple[int, int, int]]:
    """type -> (right, said, there) of one row."""
    said, there = spans(answer.split()), spans(reference.split())
    parts = [Counter(kind for kind, _, _ in found) for found in (said & there, said, there)]
    return {kind: (parts[0][kind], parts[1][kind], parts[2][kind]) for kind in parts[1] | parts[2]}


def span_f1(rows: Sequence[Answered]) -> float:
    """F1 of spans over all rows and types (micro); 1 where there is none to find and none is said."""
    return _f1([n for row in rows for n in _counts(row.answer, row.reference).values()])


def f1_by_type(rows: Sequence[Answered]) -> dict[str, float]:
    """F1 of each type that is to be found, in the order of the alphabet."""
    by_type: dict[str, list[tuple[int, int, int]]] = {}
    for row in rows:
        for kind, n in _counts(row.answer, row.reference).items():
            by_type.setdefault(kind, []).append(n)
    return {kind: _f1(n) for kind, n in sorted(by_type.items()) if any(there for _, _, there in n)}


def _f1(counts: Sequence[tuple[int, int, int]]) -> float:
    right, said, there = (sum(n[k] for n in counts) for k in range(3))
    return 2 * right / (said + there) if said or there else 1.0
