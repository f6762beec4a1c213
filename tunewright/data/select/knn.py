"""kNN: keep the k nearest neighbours of each target record, by their words (Gururangan et al. 2020, arXiv:2004.10964,
kNN-TAPT; papers: dapt).

A text is its words, lower-cased, each counted and weighted by how few texts have it, brought to length 1:

    x_w = c_w (1 + ln((1 + N) / (1 + n_w))),    N texts (records and target), n_w of them with the word w

With the similarity x . y, each target record keeps its k most similar records (of equal ones the earlier), and the
union of all is kept, nearest first: every record at the rank at which it is nearest to some target record. One that
shares no word with a target record is no neighbour of it. A record whose text is a target record's own is kept and
takes none of its k places, so that the task's texts may stand in the same stage as the pool. No model is read.

`k` 50 is the smallest of the paper's three (50, 150, 500). Memory holds the words of all texts and the similarities of
`CHUNK` target records to all others. Raises DataError where no record shares a word with a target record, and where all
are target records.

Differs from the paper in: words weighted as above in the place of VAMPIRE's embedding of bags of words, which is a
variational autoencoder trained on a million domain sentences; that union and the use of cosines are those of the
authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field, PositiveInt

from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.neighbours import by_words
from tunewright.data.select._text import text_of
from tunewright.errors import DataError

CHUNK = 256
"""Target records whose similarities to all others are held at once."""


def nearest(similar: np.ndarray, k: int) -> list[list[int]]:
    """Of [m, n] similarities the k most similar of each row, nearest first, among those above 0."""
    order = np.argsort(-similar, axis=1, kind="stable")[:, :k]
    return [[int(i) for i in row if similar[r, i] > 0] for r, row in enumerate(order)]


class KNN(Method):
    """Keeps each target record's nearest neighbours."""

    k: PositiveInt = Field(50, description="neighbours of each target record", examples=[1])

    papers: ClassVar[tuple[str, ...]] = ("dapt",)

    def select(self, records: Sequence[Record], target: Sequence[Record]) -> Selected:
        texts, aimed = [text_of(r) for r in records], list(dict.fromkeys(text_of(r) for r in target))
        vectors = by_words([*texts, *aimed])
        x, y = vectors[: len(texts)], vectors[len(texts) :]
        own = set(aimed)
        others = np.array([t not in own for t in texts])
        if len(texts) and not others.any():
            raise DataError(
                "every record is a target row itself, so that there is none to choose",
                where="knn",
                remedy="aim at other rows than those to choose from: data.validation, or the selector's target",
            )
        rank = np.where(others, len(texts), 0)
        best = np.zeros(len(texts))
        for start in range(0, len(aimed), CHUNK):
            similar = (y[start : start + CHUNK] @ x.T).toarray()
            best = np.maximum(best, similar.max(0, initial=0.0))
            for row in nearest(np.where(others, similar, 0.0), self.k):
                for at, i in enumerate(row, 1):
                    rank[i] = min(rank[i], at)
        kept = sorted(np.flatnonzero(rank < len(texts)).tolist(), key=lambda i: (rank[i], -best[i], i))
        if not kept:
            raise DataError(
                "no record shares a word with a target row, so that none is a neighbour of any",
                where="knn",
                remedy="look at data.validation (what is aimed at), or take rds-plus, which reads with a model",
            )
        inside = set(kept)
        reasons = ["" if i in inside else f"none of the {self.k} nearest of any target row" for i in range(len(texts))]
        return Selected(kept, scores={"similarity": best.tolist()}, reasons=reasons)
