"""synthesize: make the records that are trained on."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, PositiveInt

from tunewright.contract.made import Made
from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.writer import Continue, Writer


class GoesOn(Method):
    """Train on what the model writes after the first words of each record."""

    words: PositiveInt = Field(2, description="words of a record that are shown")

    def speakers(self) -> tuple[str, ...]:
        return ("start",)

    def synthesize(self, records: Sequence[Record], writers: dict[str, Writer]) -> list[Made]:
        starts = [" ".join(str(r["text"]).split()[: self.words]) for r in records]
        answers = writers["start"].generate([Continue(s) for s in starts], max_new_tokens=16)
        return [
            Made({"text": f"{start} {written.text}"}, record, written, thrown=written.nothing)
            for record, start, (written,) in zip(records, starts, answers, strict=True)
        ]
