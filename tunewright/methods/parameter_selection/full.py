"""Full fine-tuning: every parameter of the model trains.

No selection: theta <- theta - eta u for every tensor, embeddings, norms and head included; a tied tensor once. The
baseline that every other choice is compared with. Memory for gradients and for the optimizer's state is that of the
whole model. Deltas that hang on the model train along unless an earlier stage froze them.
"""

from __future__ import annotations

from typing import ClassVar

from tunewright.contract.method import Candidates, Choice, Method


class FullFineTuning(Method):
    """Train everything."""

    quantised: ClassVar[bool] = False

    def choose(self, candidates: Candidates) -> Choice:
        return Choice((*candidates.base, *candidates.deltas))
