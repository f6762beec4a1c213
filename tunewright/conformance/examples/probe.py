"""probe: measure base and tuned side by side."""

from __future__ import annotations

from pydantic import Field

from tunewright.contract.method import Method
from tunewright.measure.probe import ProbeResult, Side


class ChangeNorm(Method):
    """How far the weights moved, as a share of the base's norm."""

    power: float = Field(2.0, gt=0, description="of the norm", examples=[1.0])

    def probe(self, base: Side, tuned: Side) -> ProbeResult:
        moved = sum(float((tuned.weights[n] - w).abs().pow(self.power).sum()) for n, w in base.weights.items())
        whole = sum(float(w.abs().pow(self.power).sum()) for w in base.weights.values())
        share = (moved / whole) ** (1 / self.power)
        return ProbeResult(title="Change", description="norm of the change over the base's", values={"share": share})
