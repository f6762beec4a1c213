"""example: change a record before it is encoded."""

from __future__ import annotations

import random

from pydantic import Field

from tunewright.contract.method import Method
from tunewright.contract.records import Record


class Forgetful(Method):
    """Leave the first word of some prompts, or of texts without one, out."""

    share: float = Field(0.5, gt=0, le=1, description="share of the records", examples=[1.0])

    def example(self, record: Record, rng: random.Random) -> Record | None:
        column = "prompt" if "prompt" in record else "text"
        words = record[column].split(" ")
        left = {column: " ".join(words[1:])}
        return record.replace(**left) if len(words) > 1 and rng.random() < self.share else None
