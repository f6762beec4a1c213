"""Where a cursor stands in one source: which row comes next, and in which epoch."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

from tunewright.contract.batch import Row
from tunewright.contract.method import wherever


class Position(Protocol):
    """A place in a source that goes round in epochs.

    `given`: rows that were given; `passes`: how often the source has been gone through, as far as that is known;
    `seen`: what became of the records that were read since the cursor was made, where they are read on the way.
    """

    epoch: int
    seen: Counter[str]

    @property
    def given(self) -> int: ...
    @property
    def passes(self) -> float: ...
    def next(self) -> tuple[Hashable, Row]:
        """What tells the row from others of the source, and the row; the same until `advance`."""
        ...

    def advance(self) -> None: ...
    def state(self) -> dict[str, Any]:
        """The place as JSON values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


def permutation(n: int, seed: int, source: str, epoch: int) -> Sequence[int]:
    """The order of a source's rows in one epoch: four bytes a row, where a list would take forty."""
    order = array("i", range(n))
    random.Random(f"{seed}/order/{wherever(source)}/{epoch}").shuffle(order)
    return order


class Stored:
    """A place in rows of which all are there: each epoch has an order of its own, the first one that of the rows where
    they are `ordered`.
    """

    def __init__(self, rows: Sequence[Row], name: str, seed: int, shuffle: bool, *, ordered: bool = False):
        self.rows, self.name, self.seed, self.shuffle, self.ordered = rows, name, seed, shuffle, ordered
        self.epoch = self.index = 0
        self.seen = Counter[str]()
        self._order: tuple[int, Sequence[int]] = (-1, ())

    @property
    def given(self) -> int:
        return self.epoch * len(self.rows) + self.index

    @property
    def passes(self) -> float:
        return self.epoch + self.index / len(self.rows)

    def next(self) -> tuple[Hashable, Row]:
        if self._order[0] != self.epoch:
            n = len(self.rows)
            drawn = self.shuffle and not (self.ordered and self.epoch == 0)
            self._order = (self.epoch, permutation(n, self.seed, self.name, self.epoch) if drawn else range(n))
        at = self._order[1][self.index]
        return at, self.rows[at]

    def advance(self) -> None:
        self.index += 1
        if self.index == len(self.rows):
            self.epoch, self.index = self.epoch + 1, 0

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "index": self.index}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.index = state["epoch"], state["index"]
