"""select: choose which records are trained on."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from tunewright.contract.method import Method
from tunewright.contract.records import Record


class Longest(Method):
    """Keep the longest records."""

    share: float = Field(0.5, gt=0, le=1, description="share of the records that is kept", examples=[0.25])

    def select(self, records: Sequence[Record]) -> list[int]:
        by_length = sorted(range(len(records)), key=lambda i: -len(str(dict(records[i]))))
        return sorted(by_length[: max(1, round(self.share * len(records)))])
