"""A pool of records that is read anew whenever it is gone through, so that only what is asked of each is held.

A `Pool` is a sequence: whoever goes through it from its first record to its last, any number of times, never has more
than one of them in memory. Asked for records by their places in rising order it reads on; asked for one that lies
behind, it reads all of its records into memory and keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tunewright.contract.records import Record


class Pool(Sequence[Record]):
    """Records that `read` gives, in order; of these the ones at `places`, where not all of them."""

    def __init__(self, read: Callable[[], Iterator[Record]], count: int, places: np.ndarray | None = None):
        self._read, self._count, self._places = read, count, places
        self._held: list[Record] | None = None
        self._next, self._going = 0, iter(())  # type: tuple[int, Iterator[Record]]
        self._next, self._going = 0, iter(self)

    def __len__(self) -> int:
        return self._count if self._places is None else len(self._places)

    def __iter__(self) -> Iterator[Record]:
        if self._held is not None:
            yield from self._held
        elif self._places is None:
            yield from self._read()
        else:
            wanted, due = iter(self._places.tolist()), None
            due = next(wanted, None)
            for i, record in enumerate(self._read()):
                if due is None:
                    return
                if i == due:
                    yield record
                    due = next(wanted, None)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        if self._held is None and i < self._next:
            self._held = list(self)
        if self._held is not None:
            return self._held[i]
        while True:
            record = next(self._going)
            self._next += 1
            if self._next > i:
                return record

    def at(self, places: Sequence[int]) -> Sequence[Record]:
        """The records at some places: a pool where these rise, else a list."""
        found = np.asarray(places, dtype=np.int64)
        if (np.diff(found) <= 0).any():
            return [self[i] for i in found.tolist()]
        return Pool(self._read, self._count, found if self._places is None else self._places[found])
