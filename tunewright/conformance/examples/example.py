"""example: change a record before it is encoded."""

from __future__ import annotations

import random

from pydantic import Field

from tunewright.contract.method import Method
from tunewright.contract.records import Record


class Forgetful(Method):
    """Leave the first word of some prompts out."""

    share: float = Field(0.5, gt=0, le=1, description="share of the records", examples=[1.0])

    def example(self, record: Record, rng: random.Random) -> Record | None:
        words = record["prompt"].split(" ")
        return record.replace(prompt=" ".join(words[1:])) if len(words) > 1 and rng.random() < self.share else None
