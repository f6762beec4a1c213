"""Near-duplicate filter: of records that say almost the same, keep the first.

A text becomes the set of its runs of `words` neighbouring lower-cased words (all its words as one run where it has
fewer). Two texts are near duplicates where their sets A and B overlap by |A and B| / |A or B| >= `overlap`. Records are
gone through in order, and each is compared with those kept before it: exact, with an index and no sketch. A record that
was left out makes no other one a duplicate.

Sets that overlap by t share s runs (or all that they must) among the first |A| - ceil(t |A|) + s of each, in whatever
order all sets are sorted (prefix filtering, Chaudhuri et al. 2006; s is `SHARED`). The order is by how many kept texts
have a run, rarest first, counted anew whenever there are twice as many: what every text says leads to no comparison.
Only these prefixes are indexed, and sets are compared where they meet. Runs are known by 64 bits.

Its score `overlap` is the largest overlap with a record that is kept, where that reaches the bound; else 0.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field, PositiveInt

from tunewright.contract.records import Record
from tunewright.data.select._text import text_of
from tunewright.data.select._words import Tokens, tokens
from tunewright.pieces.each_row import EachRow, Judge

SHARED = 6
"""Runs by which two texts must meet before they are compared."""
FIRST = 256
"""Kept texts after which runs are counted for the first time."""


def runs_of(texts: Sequence[str], n: int) -> Iterator[np.ndarray]:
    """Of each text its different runs of n words, as sorted uint64."""
    held = tokens(texts, punctuation=False)
    keys, starts = held.runs(n)
    text = held.text[starts]
    order = np.lexsort((keys, text))
    keys, text = keys[order], text[order]
    fresh = np.append(True, (keys[1:] != keys[:-1]) | (text[1:] != text[:-1]))[: len(keys)]
    keys, text = keys[fresh], text[fresh]
    bounds = np.searchsorted(text, np.arange(len(texts) + 1)).tolist()
    of_words = np.searchsorted(held.text, np.arange(len(texts) + 1)).tolist()
    for i in range(len(texts)):
        mine = keys[bounds[i] : bounds[i + 1]]
        yield mine if len(mine) else _whole(held, of_words[i], of_words[i + 1])


def _whole(held: Tokens, first: int, last: int) -> np.ndarray:
    """All words of a text that has too few, as one run."""
    words = " ".join(held.said(np.arange(first, last), 1))
    return np.frombuffer(hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=8).digest(), np.uint64)


class Index:
    """The sets of runs of texts that are kept, found by the rarest runs of each."""

    def __init__(self, overlap: float):
        self.overlap = overlap
        self._holders: dict[int, int | list[int]] = {}
        self._sets: list[np.ndarray] = []
        self._common, self._counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        self._count_at = FIRST

    def largest(self, sets: Sequence[np.ndarray]) -> list[float]:
        """Of each set in order its largest overlap with one kept before, 0 where none reaches `overlap`: then it is
        kept.
        """
        if len(self._sets) >= self._count_at:
            self._count()
        return [self._found(mine, prefix) for mine, prefix in zip(sets, self._rarest(sets), strict=True)]

    def _found(self, mine: np.ndarray, prefix: list[int]) -> float:
        found, holders = 0.0, self._holders
        each = zip(prefix, map(holders.get, prefix), strict=True)
        held = [(run, holder) for run, holder in each if holder is not None]
        least = min(SHARED, self._least(len(mine)))
        if len(held) >= least:
            met = Counter[int]()
            for _, holder in held:
                met.update((holder,) if isinstance(holder, int) else holder)
            found = max((self._overlap(mine, self._sets[k]) for k, n in met.items() if n >= least), default=0.0)
        if found >= self.overlap:
            return found
        self._hold(prefix, len(self._sets), held)
        self._sets.append(mine)
        return 0.0

    def _hold(self, prefix: list[int], place: int, held: list[tuple[int, int | list[int]]]) -> None:
        self._holders.update(dict.fromkeys(prefix, place))
        for run, holder in held:  # most runs have one holder: a list for each would take more than the runs
            self._holders[run] = [holder, place] if isinstance(holder, int) else [*holder, place]

    def _least(self, runs: int) -> int:
        """Runs that a set of so many has in common with one that it overlaps enough, at least."""
        return math.ceil(self.overlap * runs - 1e-9)

    def _rarest(self, sets: Sequence[np.ndarray]) -> Iterator[list[int]]:
        """Of each set the runs by which it is found: the rarest."""
        runs, sizes = np.concatenate(sets), np.array([len(s) for s in sets])
        of = np.repeat(np.arange(len(sets)), sizes)
        if len(self._common):
            at = np.minimum(np.searchsorted(self._common, runs), len(self._common) - 1)
            runs = runs[np.lexsort((runs, np.where(self._common[at] == runs, self._counts[at], 1), of))]
        ends = np.cumsum(sizes)
        told = runs.tolist()
        for size, end in zip(sizes.tolist(), ends.tolist(), strict=True):
            yield told[end - size : min(end, end - self._least(size) + SHARED)]

    def _count(self) -> None:
        """Sort by how common runs are now, and index all sets anew."""
        runs, counts = np.unique(np.concatenate(self._sets), return_counts=True)
        self._common, self._counts = runs[counts > 1], counts[counts > 1]
        self._count_at = 2 * len(self._sets)
        self._holders = {}
        for place, prefix in enumerate(self._rarest(self._sets)):
            self._hold(prefix, place, [(run, self._holders[run]) for run in prefix if run in self._holders])

    def _overlap(self, a: np.ndarray, b: np.ndarray) -> float:
        if len(a) > len(b):
            a, b = b, a
        if len(a) < self.overlap * len(b):
            return 0.0
        at = np.minimum(np.searchsorted(b, a), len(b) - 1)
        both = int((b[at] == a).sum())
        return both / (len(a) + len(b) - both)


class NearDuplicate(EachRow):
    """Keeps the first of records that say almost the same."""

    overlap: float = Field(
        0.7, gt=0, le=1, description="share of common runs of words from which two records are duplicates"
    )
    words: PositiveInt = Field(3, description="words of a run", examples=[1])

    conformance: ClassVar[dict[str, object]] = {"overlap": 0.05, "words": 1}

    def judge(self) -> Judge:
        index = Index(self.overlap)

        def judged(some: Sequence[Record]) -> list[tuple[dict[str, float], str]]:
            found = index.largest(list(runs_of([text_of(r) for r in some], self.words)))
            return [({"overlap": x}, "says almost what an earlier record says" if x else "") for x in found]

        return judged
