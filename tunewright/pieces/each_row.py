"""Selectors that judge records in order: what they say of one hangs on it and on those before it alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected

Item = TypeVar("Item")
WINDOW = 256
"""Records that a judge is shown at a time, at most."""
Judge = Callable[[Sequence[Record]], Sequence[tuple[Mapping[str, float], str]]]
"""Of some records: each one's scores, and why it goes ("": it stays)."""


class EachRow(Method):
    """A selector that gives a judge, fresh each time, of records that it is shown in order, some at a time.

    `tunewright select` shows it records as they are read, and holds no more than those.
    """

    @abstractmethod
    def judge(self) -> Judge:
        """What judges records from the first on: (some) -> the scores of each and why it goes, "" where it stays. How
        many are shown at a time makes no difference.
        """

    def select(self, records: Sequence[Record]) -> Selected:
        judge, scores, reasons = self.judge(), dict[str, list[float]](), list[str]()
        for some in windows(records):
            for found, why in judge(some):
                reasons.append(why)
                for name, value in found.items():
                    scores.setdefault(name, []).append(value)
        return Selected([i for i, why in enumerate(reasons) if not why], scores=scores, reasons=reasons)


def windows(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items in lists of `WINDOW`."""
    at = iter(items)
    while some := list(islice(at, WINDOW)):
        yield some
