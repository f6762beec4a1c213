"""A pack's figures, as reports and measurements hold them."""

from __future__ import annotations

from pydantic import Field

from tunewright.report.answer import Answer
from tunewright.report.measured import Measured


class PackFigure(Measured):
    """The share of right answers to a pack's questions, before and after."""

    right: tuple[int, int] | None = Field(
        None, description="rows that only the first model, only the second answers rightly; none of several seeds"
    )
    mcnemar: float | None = Field(
        None, ge=0, le=1, description="p of McNemar's exact test that both are right equally often, from `right`"
    )
    floor: float = Field(0.0, ge=0, le=1, description="the pack's noise floor: a change below it is none")
    parts: list[Measured] = Field(default_factory=list, description="the same of each group of questions")
    answers: list[Measured] = Field(
        default_factory=list,
        description="of the answers themselves, neither right nor wrong: words, and the share that is said again",
    )
    shown: list[Answer] = Field(default_factory=list, description="a few answers, those that changed first")

    @property
    def beneath(self) -> bool:
        """Whether the change lies below the noise floor."""
        return self.difference is not None and 0 < abs(self.difference.value) < self.floor
