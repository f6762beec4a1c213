"""Finding cards by words: BM25 over a few hundred short texts, in plain Python (a library loads slower than all cards).

A text's score for a query is the sum over the query's words w of

    idf(w) tf (k1 + 1) / (tf + k1 (1 - b + b length / mean length)),   idf(w) = ln(1 + (N - n_w + 0.5) / (n_w + 0.5))

tf: how often w is in the text; n_w: how many of the N texts have it (Robertson, Zaragoza 2009). Words are cut to a
stem, so that "merging", "merged" and "merge" are one, and so are "quantized" and "quantisation".
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Mapping

from tunewright.papers import cards

_SUFFIXES = ("ations", "ation", "ings", "ing", "ed", "es", "s", "e")
_COMMON = frozenset(
    (
        "a an and are as at be by for from in into is it its of on or that the their them then this to under which "
        "while with"
    ).split()
)


def stem(word: str) -> str:
    """A word without its ending; doubled consonants before it become one ("forgetting" -> "forget")."""
    word = word.replace("iz", "is").replace("yz", "ys")
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3 and not word.endswith("ss"):
            word = word[: -len(suffix)]
            if len(word) > 3 and word[-1] == word[-2] and word[-1] != "s":
                word = word[:-1]
            break
    return word


def terms(text: str) -> list[str]:
    """Stems of a text's words, without the commonest words."""
    return [stem(w) for w in re.findall(r"\w+", text.casefold()) if w not in _COMMON]


class Index:
    """Texts by key, ready to be searched. `k1` (no unit) damps repetition, `b` in [0, 1] discounts long texts."""

    def __init__(self, texts: Mapping[str, str], *, k1: float = 1.2, b: float = 0.75):
        counted = {key: Counter(terms(text)) for key, text in texts.items()}
        lengths = {key: sum(c.values()) for key, c in counted.items()}
        mean = sum(lengths.values()) / max(1, len(lengths))
        having = Counter(t for c in counted.values() for t in c)
        self._weights: dict[str, list[tuple[str, float]]] = {t: [] for t in having}
        for key, counts in counted.items():
            for t, tf in counts.items():
                idf = math.log(1 + (len(texts) - having[t] + 0.5) / (having[t] + 0.5))
                self._weights[t].append((key, idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * lengths[key] / mean))))

    def search(self, query: str) -> list[tuple[str, float]]:
        """(key, score) of every text that has a word of the query, best first; ties by key."""
        scores: dict[str, float] = {}
        for t in dict.fromkeys(terms(query)):
            for key, weight in self._weights.get(t, ()):
                scores[key] = scores.get(key, 0.0) + weight
        return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))


@functools.cache
def index() -> Index:
    """The index of all cards."""
    return Index({slug: card.text for slug, card in cards.load().items()})


def search(words: str) -> list[cards.Card]:
    """Cards that fit the words, best first."""
    by_slug = cards.load()
    return [by_slug[slug] for slug, _ in index().search(words)]


def similar(slug: str, n: int = 5) -> list[cards.Card]:
    """The n cards most like one, by what it does, its tags, family and modality (titles and results share too many
    words).
    """
    own = cards.find(slug)
    return [
        card for card in search(" ".join((own.mechanism, *own.tags, own.family, own.modality))) if card.slug != slug
    ][:n]
