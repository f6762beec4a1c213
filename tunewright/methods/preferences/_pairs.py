"""What the preference objectives here declare alike: pairs, one loss per pair, held to the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat

from tunewright.contract.method import Method, Need
from tunewright.methods.needs.reference_log_probs import ReferenceLogProbs


class Preference(Method):
    """An objective on pairs that is held to the base. `reward` of an answer: beta x (log-probability - the base's)."""

    weight: PositiveFloat = Field(1.0, description="weight of this objective in the sum", examples=[0.5])

    pairs: ClassVar[bool] = True
    rate_factor: ClassVar[float] = 0.14
    rate_by_width: ClassVar[float] = 1.0
    rate_by_rows: ClassVar[float] = 0.5
    couples: ClassVar[Literal["token", "row", "batch"]] = "row"
    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation", "image-text-to-text")

    def needs(self) -> Sequence[Need]:
        return (ReferenceLogProbs(),)
