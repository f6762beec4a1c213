"""Test-centric multi-turn arrangement: training rows come in turns, in each of which every target row takes its nearest
row that is left (He et al. 2024, arXiv:2406.11721; papers: test-centric-arrangement).

With cosines s_ji of m target rows and n records, and U the records that no turn has taken yet, turn t is

    T_t = { argmax_(i in U) s_ji : j = 1 .. m },    U <- U - T_t

where several target rows may take the same record, so that a turn has m records at most. Turns follow each other until
`keep` records are taken; inside a turn records stand as they stood. What is most like the rows that are aimed at is so
learnt first, for each of them and not for the commonest kind alone, whatever task a row is of.

| `order` | |
| --- | --- |
| nearest | turn by turn |
| farthest | the same with argmin: what is least like the target comes first |
| random | the records that `nearest` keeps, in random order: what an order has to beat |

A record's place is known by the mean of the model's last hidden states over prompt and answer (`compare: states`), or
by its words, weighted by how few texts have them (`compare: words`; no model is read). The order is that of the first
pass over the rows, whatever `data.shuffle` says. Memory holds each target row's order of all records, 4 m n bytes;
`target` rows beyond `most_targets` are drawn without replacement (ours).

Defaults: every record is kept (the authors keep 30,000 of Flan-mini's), 1,000 target rows.
Errors: DataError where, by words, no record shares a word with a target row.
Source: HBX-hbx/dynamics_of_zero-shot_generalization, data/convert_flan_data_job.py.
Differs from the paper in: states of the stage's own model, or words, in the place of a sentence encoder's embeddings;
the last turn is cut where `keep` is reached (there it stays whole); the target is `data.validation`, never the rows
that the run is measured on; there it is the unseen test tasks' rows themselves.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.method import Method
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.neighbours import by_words
from tunewright.data.select._keep import Amount, at_most, how_many
from tunewright.data.select._text import text_of
from tunewright.errors import DataError
from tunewright.models.flops import book

CHUNK = 256
"""Target rows whose similarities to all records are held at once."""


def turns(places: np.ndarray, k: int) -> list[list[int]]:
    """Of [m, n] records in the order in which each target row wants them, the turns until k are taken (at most n): in
    each every row takes the first that was left when the turn began.
    """
    taken = np.zeros(places.shape[1], bool)
    at, out, left = np.zeros(len(places), np.int64), list[list[int]](), k
    rows = np.arange(len(places))
    while left > 0:
        used = taken[places[rows, at]]
        while used.any():
            at += used
            used = taken[places[rows, at]]
        turn = np.unique(places[rows, at])[:left]
        taken[turn] = True
        left -= len(turn)
        out.append(turn.tolist())
        if taken.all():
            break
    return out


class Arrangement(Method):
    """Puts records into turns of those nearest to each target row."""

    keep: Amount = Field(
        1.0, gt=0, description="share of the records kept (10%, 0.1), or how many (1000)", examples=["50%", 3]
    )
    order: Literal["nearest", "farthest", "random"] = Field("nearest", description="what comes first")
    compare: Literal["states", "words"] = Field(
        "states", description="by what rows are alike: states of a model, or their words"
    )
    most_targets: PositiveInt = Field(
        1000, description="target rows that take turns; of more, as many are drawn", examples=[2]
    )
    model: str = Field(
        "start",
        description="whose states are compared: those of start (of the stage), or of one of the recipe's `models`",
    )

    orders: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("test-centric-arrangement",)

    def speakers(self) -> tuple[str, ...]:
        return (self.model,) if self.compare == "states" else ()

    def select(
        self, records: Sequence[Record], target: Sequence[Record], readers: dict[str, Reader], rng: random.Random
    ) -> Selected:
        aimed = at_most(target, self.most_targets, rng)
        k, n = how_many(self.keep, len(records)), len(records)
        best, places = np.full(n, -np.inf), list[np.ndarray]()
        for similar in self._similar(records, aimed, readers):
            best = np.maximum(best, similar.max(0).values.double().numpy())
            order = similar.sort(dim=1, descending=self.order != "farthest", stable=True).indices
            places.append(order.to(torch.int32).numpy())
        taken = turns(np.concatenate(places), k)
        kept = [i for turn in taken for i in turn]
        turn_of = {i: t for t, turn in enumerate(taken, 1) for i in turn}
        if self.order == "random":
            rng.shuffle(kept)
        reasons = ["" if i in turn_of else f"{k:,} come before it" for i in range(n)]
        scores = {"similarity": best.tolist(), "turn": [float(turn_of.get(i, 0)) for i in range(n)]}
        return Selected(kept, scores=scores, reasons=reasons)

    def _similar(
        self, records: Sequence[Record], aimed: Sequence[Record], readers: dict[str, Reader]
    ) -> Iterator[Tensor]:
        """[at most CHUNK, n] cosines of the target rows and all records, in order."""
        if self.compare == "words":
            vectors = by_words([text_of(r) for r in (*records, *aimed)])
            x, y = vectors[: len(records)], vectors[len(records) :]
            if not (y @ x.T).nnz:
                raise DataError(
                    "no record shares a word with a target row, so that none is nearer than another",
                    where="test-centric-arrangement",
                    remedy="look at data.validation (what is aimed at), or write compare: states",
                )
            for start in range(0, len(aimed), CHUNK):
                yield torch.from_numpy((y[start : start + CHUNK] @ x.T).toarray())
            return
        reader = readers[self.model]
        known, wanted = (
            torch.nn.functional.normalize(reader.embeddings(some), dim=1).to(reader.device) for some in (records, aimed)
        )
        for start in range(0, len(aimed), CHUNK):
            similar = wanted[start : start + CHUNK] @ known.T
            book(2.0 * similar.numel() * known.shape[1], 0.0, similar)
            yield similar.cpu()
