"""One row's answers side by side, as `report.json` shows a few of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from tunewright.report.saved import Part


class Answer(Part):
    """One row's answers side by side."""

    id: str = Field(description="row, e.g. 'test.jsonl:12'")
    source: str | None = Field(None, description="source of the row")
    prompt: str = Field(description="what both models were given")
    reference: str | None = Field(None, description="the expected answer")
    base: str | None = Field(None, description="the untouched base's answer")
    tuned: str | None = Field(None, description="the tuned model's answer")
    base_score: float | None = Field(
        None, description="score of the base's answer in the target's metric (a right answer: 1)"
    )
    tuned_score: float | None = Field(None, description="score of the tuned model's answer")

    @classmethod
    def of(cls, row: Any) -> Answer:
        """From a line of rows.jsonl, as a mapping or an object; what an answer does not hold is left out."""
        values = row if isinstance(row, Mapping) else vars(row)
        return cls.model_validate({k: _whole(v) for k, v in values.items() if k in cls.model_fields})


def _whole(value: Any) -> Any:
    """Text that UTF-8 can hold: half of a surrogate pair (JSON lets it through) is replaced."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value
