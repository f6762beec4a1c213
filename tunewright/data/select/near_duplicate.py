"""Near-duplicate filter: of records that say almost the same, keep the first.

A text becomes the set of its runs of `words` neighbouring lower-cased words (all its words as one run where it has
fewer). Two texts are near duplicates where their sets A and B overlap by |A and B| / |A or B| >= `overlap`. Records are
gone through in order, and each is compared with those kept before it that share a run with it: exact, with an index and
no sketch. A record that was left out makes no other one a duplicate.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, PositiveInt

from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.select._text import text_of

WORD = re.compile(r"\w+")


def runs(text: str, n: int) -> frozenset[tuple[str, ...]]:
    """The runs of n neighbouring words of a text; all its words as one where there are fewer."""
    words = WORD.findall(text.lower())
    return frozenset(tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1)))


def overlaps(texts: Sequence[str], n: int, overlap: float) -> list[float]:
    """For each text its largest overlap with a text before it that is itself no near duplicate; 0 for none."""
    holders: dict[tuple[str, ...], list[int]] = {}
    sizes: list[int] = []
    largest: list[float] = []
    for i, text in enumerate(texts):
        mine = runs(text, n)
        sizes.append(len(mine))
        shared = Counter(k for run in mine for k in holders.get(run, ()))
        largest.append(max((both / (len(mine) + sizes[k] - both) for k, both in shared.items()), default=0.0))
        if largest[-1] < overlap:
            for run in mine:
                holders.setdefault(run, []).append(i)
    return largest


class NearDuplicate(Method):
    """Keeps the first of records that say almost the same."""

    overlap: float = Field(
        0.7, gt=0, le=1, description="share of common runs of words from which two records are duplicates"
    )
    words: PositiveInt = Field(3, description="words of a run", examples=[1])

    conformance: ClassVar[dict[str, object]] = {"overlap": 0.05, "words": 1}

    def select(self, records: Sequence[Record]) -> Selected:
        found = overlaps([text_of(r) for r in records], self.words, self.overlap)
        reasons = ["says almost what an earlier record says" if x >= self.overlap else "" for x in found]
        return Selected([i for i, why in enumerate(reasons) if not why], scores={"overlap": found}, reasons=reasons)
