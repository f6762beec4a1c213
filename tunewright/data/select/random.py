"""Random draw: keep a share or a number of the records, each as likely as any other. What a selector has to beat.

A record's draw u in [0, 1) is a hash of (a salt from the seed, its source, its id), and the k records of smallest u are
kept, in the order in which they stood: a draw without replacement that is the same wherever a record stands, and in
which a smaller `keep` gives a part of what a larger one gives. One pass, memory for a number a record.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.select._keep import Amount, drawn, how_many


class RandomDraw(Method):
    """Keeps records at random."""

    keep: Amount = Field(
        0.1,
        gt=0,
        description="share of the records kept (10%, 0.1), or how many (1000)",
        examples=["25%", 3],
    )

    def select(self, records: Sequence[Record], rng: random.Random) -> Selected:
        salt = rng.getrandbits(63)
        draws = array("d", (drawn(f"{salt}/{r.source}/{r.id}") for r in records))
        order = np.argsort(np.asarray(draws), kind="stable")[: how_many(self.keep, len(draws))]
        kept = np.sort(order).tolist()
        inside = set(kept)
        reasons = ["" if i in inside else "not drawn" for i in range(len(draws))]
        return Selected(kept, scores={"draw": draws}, reasons=reasons)
