"""Related pairs: each document with its nearest neighbours, as rows that teach to write the one after the other. The
first step of synthetic bootstrapped pre-training (Yang et al. 2025, arXiv:2509.15248; papers:
synthetic-bootstrapped-pretraining).

For each document d the `neighbours` others of highest cosine s(d, d') with s >= `least` are looked up (of equal ones
the earlier), and each makes a row whose prompt is d and whose completion is d', so that a stage on them learns

    max_theta  sum over pairs of log p_theta(d' | d)

and d' alone is trained on. Two documents whose sets of runs of `words` words overlap by |A and B| / |A or B| >= `same`
are one text twice and no pair. A document without a neighbour is thrown away with the reason. A pair is there in both
directions where each is among the other's neighbours.

`compare: words` weighs a text's words by how few texts have them; no model is read. `compare: states` takes the means
of a model's last hidden states, whose cosines are all high: read the scores in the run's folder before `least` is set.
Memory holds a block of `CHUNK` documents' similarities to all others.

Defaults: all ours (neighbours 3, least 0.2 of cosines of words, same 0.5 over runs of five words).
Errors: DataError for a row that has no text.
Differs from the paper in: words, or the model's own states, in the place of an encoder of sentences; exact neighbours
in the place of approximate ones. Written after the abstract and summaries of the method, without the authors' code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt

from tunewright.contract.made import Made
from tunewright.contract.method import Method
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.data.neighbours import by_words, overlap
from tunewright.data.synthesize._answers import document_of, related_to
from tunewright.models.flops import book

CHUNK = 256
"""Documents whose similarities to all others are held at once."""


class RelatedPairs(Method):
    """Pairs of related documents, the second to be written after the first."""

    neighbours: PositiveInt = Field(3, description="documents that each one is paired with, at most", examples=[1])
    least: float = Field(0.2, ge=-1, le=1, description="cosine from which two documents are related", examples=[0.999])
    same: float = Field(
        0.5, gt=0, le=1, description="overlap of runs of words from which they are one text twice", examples=[0.01]
    )
    words: PositiveInt = Field(5, description="words of such a run", examples=[1])
    compare: Literal["words", "states"] = Field("words", description="by what documents are alike")
    model: str = Field(
        "start",
        description="whose states are compared: start (of the stage), base, previous, stages.NAME, or one of `models`",
        examples=["base"],
    )

    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    papers: ClassVar[tuple[str, ...]] = ("synthetic-bootstrapped-pretraining",)
    conformance: ClassVar[dict[str, object]] = {"compare": "states", "words": 1, "same": 0.1}

    def speakers(self) -> tuple[str, ...]:
        return (self.model,) if self.compare == "states" else ()

    def makes(self, count: int) -> int | None:
        return count * self.neighbours

    def synthesize(self, records: Sequence[Record], readers: dict[str, Reader]) -> list[Made]:
        texts = [document_of(r) for r in records]
        out = []
        for i, similar in enumerate(self._similar(records, texts, readers)):
            found = list[Made]()
            for j in np.argsort(-similar, kind="stable").tolist():
                if similar[j] < self.least or len(found) == self.neighbours:
                    break
                if i != j and overlap(texts[i], texts[j], self.words) < self.same:
                    row = {**related_to(records[i]), "completion": texts[j], "related": records[j].id}
                    found.append(Made(row, records[i], scores={"similarity": float(similar[j])}))
            out += found or [Made(dict(records[i]), records[i], thrown="no other document is related to it")]
        return out

    def _similar(
        self, records: Sequence[Record], texts: Sequence[str], readers: dict[str, Reader]
    ) -> Iterator[np.ndarray]:
        """[n] cosines of each document in order and all of them."""
        if self.compare == "words":
            x = by_words(texts)
            for start in range(0, len(texts), CHUNK):
                yield from (x[start : start + CHUNK] @ x.T).toarray()
            return
        reader = readers[self.model]
        known = torch.nn.functional.normalize(reader.embeddings(records), dim=1).to(reader.device)
        for start in range(0, len(texts), CHUNK):
            block = known[start : start + CHUNK] @ known.T
            book(2.0 * block.numel() * known.shape[1], 0.0, block)
            yield from block.cpu().numpy()
