"""How an extracted answer is compared with the right ones, as SQuAD's own script does.

Normal form: lower case, no ASCII punctuation, no word "a", "an" or "the", runs of white space as one space. A reference
holds one right answer a line, the best of which counts; "" is no answer. Where one side says nothing, both scores are
whether both do. Source: Rajpurkar et al. 2016, section 6.1; SQuAD 2.0's script.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from tunewright.contract.metric import Answered

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@lru_cache(maxsize=1 << 16)
def normal(text: str) -> str:
    """The normal form that is compared."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _right(reference: str) -> list[str]:
    """The normal forms of the right answers; one that has none left is no answer."""
    return [n for line in reference.split("\n") if (n := normal(line))] or [""]


def squad_exact_match(answer: str, reference: str) -> float:
    """1 where the answer is one of the right ones."""
    return float(normal(answer) in _right(reference))


def squad_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over words, against the right answer where it is largest."""
    return max(_f1(normal(answer).split(), right.split()) for right in _right(reference))


def _f1(said: Sequence[str], right: Sequence[str]) -> float:
    if not said or not right:
        return float(said == right)
    return 2 * (Counter(said) & Counter(right)).total() / (len(said) + len(right))


def by_kind(rows: Sequence[Answered]) -> dict[str, float]:
    """The mean over rows with an answer and over those without, where there are both."""
    kinds: dict[str, list[float]] = {"with an answer": [], "without one": []}
    for row in rows:
        kinds["with an answer" if row.reference else "without one"].append(row.score)
    return {kind: sum(scores) / len(scores) for kind, scores in kinds.items() if scores} if all(kinds.values()) else {}
