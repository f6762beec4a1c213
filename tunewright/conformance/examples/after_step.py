"""after_step: be told that an optimizer step is done."""

from __future__ import annotations

from pydantic import Field

from tunewright.contract.method import Method
from tunewright.models.adapted import Adapted


class Clipped(Method):
    """Keep trained weights inside a range."""

    limit: float = Field(0.05, gt=0, description="largest absolute value", examples=[0.2])

    def after_step(self, adapted: Adapted) -> None:
        for name in adapted.originals:
            adapted.base_parameters()[name].data.clamp_(-self.limit, self.limit)
