"""Selectors that judge records one after the other: what they say of one hangs on it and on those before it alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected

Judge = Callable[[Record], tuple[Mapping[str, float], str]]
"""A record's scores, and why it goes ("": it stays)."""


class EachRow(Method):
    """A selector that gives a judge, fresh each time, of records that it is shown in order.

    `tunewright select` shows it each record as it is read, and holds none.
    """

    @abstractmethod
    def judge(self) -> Judge:
        """What judges records from the first on: (record) -> its scores and why it goes, "" where it stays."""

    def select(self, records: Sequence[Record]) -> Selected:
        judge, scores, reasons = self.judge(), dict[str, list[float]](), list[str]()
        for record in records:
            found, why = judge(record)
            reasons.append(why)
            for name, value in found.items():
                scores.setdefault(name, []).append(value)
        return Selected([i for i, why in enumerate(reasons) if not why], scores=scores, reasons=reasons)
