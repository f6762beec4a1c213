"""Length filter: keep the records whose answer has between `least` and `most` words.

A word is what stands between white space; a record's answer is its completion, what the assistant says in its turns, or
the whole of a plain text. What models write is often empty at one end and runs away at the other.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from tunewright.contract.records import Record
from tunewright.data.select._text import answer_of
from tunewright.pieces.each_row import EachRow, Judge


class Length(EachRow):
    """Keeps records whose answer is neither too short nor too long."""

    least: NonNegativeInt = Field(1, description="fewest words of an answer that is kept", examples=[5])
    most: PositiveInt | None = Field(None, description="most words of an answer that is kept; none: any", examples=[6])

    conformance: ClassVar[dict[str, object]] = {"least": 4}

    @model_validator(mode="after")
    def _ordered(self) -> Length:
        if self.most is not None and self.least > self.most:
            raise ValueError(f"least ({self.least}) must not be above most ({self.most})")
        return self

    def judge(self) -> Judge:
        def judged(record: Record) -> tuple[dict[str, float], str]:
            words = len(answer_of(record).split())
            return {"words": words}, self._against(words)

        return lambda some: [judged(r) for r in some]

    def _against(self, words: int) -> str:
        if words < self.least:
            return f"fewer than {self.least} words"
        return f"more than {self.most} words" if self.most is not None and words > self.most else ""
