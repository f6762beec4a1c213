"""objective: what is minimised."""

from __future__ import annotations

from pydantic import Field

from tunewright.contract.batch import Loss, Outputs
from tunewright.contract.method import Method


class Focal(Method):
    """Cross-entropy that looks less at what is known already: -(1 - p)^gamma log p."""

    gamma: float = Field(2.0, gt=0, description="how much less")

    def objective(self, outputs: Outputs) -> Loss:
        log_p = outputs.log_probs()
        return Loss(-((1 - log_p.detach().exp()) ** self.gamma) * log_p)
