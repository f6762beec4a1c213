"""Threshold filter: keep the records in which a column's number is neither too low nor too high.

The column is one of the rows' own, or one that a method on `synthesize` wrote: `confidence` of a pseudo-label. A record
that has no finite number there is an error, since it would be dropped without anybody having decided so.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from tunewright.contract.records import Record, finite
from tunewright.errors import DataError, did_you_mean
from tunewright.pieces.each_row import EachRow, Judge


class Threshold(EachRow):
    """Keeps records by a number in one of their columns."""

    column: str = Field("confidence", min_length=1, description="the column that holds the number", examples=["score"])
    least: float | None = Field(0.5, description="lowest number that is kept; none: any", examples=[0.9])
    most: float | None = Field(None, description="highest number that is kept; none: any", examples=[0.5])

    @model_validator(mode="after")
    def _bounded(self) -> Threshold:
        if self.least is None and self.most is None:
            raise ValueError("it keeps everything without a bound: write least: 0.9, or most")
        return self

    def judge(self) -> Judge:
        def judged(record: Record) -> tuple[dict[str, float], str]:
            value = self._number(record)
            return {self.column: value}, self._against(value)

        return lambda some: [judged(r) for r in some]

    def _number(self, record: Record) -> float:
        if self.column not in record:
            raise DataError(
                f"the row has no column '{self.column}' (it has: {', '.join(sorted(record))})",
                where=record.where,
                remedy=did_you_mean(self.column, record),
            )
        value = record.get(self.column)
        if value is None or value == "":
            raise DataError(
                f"the column '{self.column}' is empty",
                where=record.where,
                remedy="write a number into it, or take the row out",
            )
        number = None if isinstance(value, bool) else finite(value)
        if number is None:
            raise DataError(
                f"the column '{self.column}' holds {value!r}, which is no number",
                where=record.where,
                remedy="name a column of numbers: threshold: {column: ...}",
            )
        return number

    def _against(self, value: float) -> str:
        if self.least is not None and value < self.least:
            return f"{self.column} below {self.least:g}"
        return f"{self.column} above {self.most:g}" if self.most is not None and value > self.most else ""
