"""schedule: the learning rate's factor at a step."""

from __future__ import annotations

from pydantic import Field

from tunewright.contract.method import Method


class Alternating(Method):
    """Full and lower rate in turn."""

    low: float = Field(0.5, ge=0, le=1, description="factor of every other step", examples=[0.25])

    def schedule(self, step: int) -> float:
        return 1.0 if step % 2 == 0 else self.low
