"""Full fine-tuning: every parameter of the model trains.

No selection: theta <- theta - eta u for every tensor, embeddings, norms and head included; a tied tensor once. The
baseline that every other choice is compared with. Memory for gradients and for the optimizer's state is that of the
whole model. Deltas that hang on the model train along unless an earlier stage froze them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tunewright.contract.method import Candidates, Choice, Method


class FullFineTuning(Method):
    """Train everything."""

    category: ClassVar[str] = "whole"
    quantised: ClassVar[bool] = False
    divides: ClassVar[bool] = True
    learning_rates: ClassVar[Mapping[str, float]] = {
        "": 8e-5,
        "text-classification": 1.2e-4,
        "image-classification": 1e-4,
    }

    def choose(self, candidates: Candidates) -> Choice:
        return Choice((*candidates.base, *candidates.deltas))
