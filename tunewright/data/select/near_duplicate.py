"""Near-duplicate filter: of records that say almost the same, keep the first.

A text becomes the set of its runs of `words` neighbouring lower-cased words (all its words as one run where it has
fewer). Two texts are near duplicates where their sets A and B overlap by |A and B| / |A or B| >= `overlap`. Records are
gone through in order, and each is compared with those kept before it that share a run with it: exact, with an index and
no sketch. A record that was left out makes no other one a duplicate.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import ClassVar

from pydantic import Field, PositiveInt

from tunewright.contract.records import Record
from tunewright.data.select._text import text_of
from tunewright.pieces.each_row import EachRow, Judge

WORD = re.compile(r"\w+")


def runs(text: str, n: int) -> frozenset[tuple[str, ...]]:
    """The runs of n neighbouring words of a text; all its words as one where there are fewer."""
    words = WORD.findall(text.lower())
    return frozenset(tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1)))


class Index:
    """The sets of runs of texts that are kept, by the runs that each holds."""

    def __init__(self, overlap: float):
        self.overlap = overlap
        self._holders: dict[tuple[str, ...], list[int]] = {}
        self._sizes: list[int] = []

    def largest(self, mine: frozenset[tuple[str, ...]]) -> float:
        """The largest overlap with a text kept before, 0 for none; the text is kept where it is below `overlap`."""
        shared = Counter(k for run in mine for k in self._holders.get(run, ()))
        found = max((both / (len(mine) + self._sizes[k] - both) for k, both in shared.items()), default=0.0)
        if found < self.overlap:
            for run in mine:
                self._holders.setdefault(run, []).append(len(self._sizes))
            self._sizes.append(len(mine))
        return found


class NearDuplicate(EachRow):
    """Keeps the first of records that say almost the same."""

    overlap: float = Field(
        0.7, gt=0, le=1, description="share of common runs of words from which two records are duplicates"
    )
    words: PositiveInt = Field(3, description="words of a run", examples=[1])

    conformance: ClassVar[dict[str, object]] = {"overlap": 0.05, "words": 1}

    def judge(self) -> Judge:
        index = Index(self.overlap)

        def judged(record: Record) -> tuple[dict[str, float], str]:
            found = index.largest(runs(text_of(record), self.words))
            return {"overlap": found}, "says almost what an earlier record says" if found >= self.overlap else ""

        return judged
