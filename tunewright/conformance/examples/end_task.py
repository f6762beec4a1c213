"""end_task: be told that a stage ends."""

from __future__ import annotations

from pydantic import Field

from tunewright.contract.method import Method
from tunewright.models.adapted import Adapted


class Rounded(Method):
    """Round what was trained to a grid."""

    grid: float = Field(0.01, gt=0, description="distance of the grid's points", examples=[0.1])

    def end_task(self, adapted: Adapted) -> None:
        for name in adapted.originals:
            values = adapted.base_parameters()[name].data
            values.copy_((values / self.grid).round() * self.grid)
