"""mixture: the next weights of the sources."""

from __future__ import annotations

from pydantic import Field

from tunewright.contract.method import Method, Plan


class LargestFirst(Method):
    """Begin with the largest source alone, and go on with all in equal shares."""

    until: float = Field(0.5, ge=0, le=1, description="share of the stage", examples=[1.0])

    def mixture(self, weights: dict[str, float], step: int, plan: Plan) -> dict[str, float]:
        largest = max(plan.sources, key=lambda n: plan.sources[n])
        return {n: 1.0 if n == largest or step >= self.until * plan.steps else 0.0 for n in weights}
