"""rollout: make the step's rows from samples of the present model."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from pydantic import Field, PositiveInt

from tunewright.contract.method import Method
from tunewright.training.rollouts import Rollout, Sample


class SelfImitation(Method):
    """Train on one of several answers that the model gives itself: the one that the base finds likeliest."""

    answers: PositiveInt = Field(2, description="answers per prompt")
    longest: PositiveInt = Field(4, description="tokens per answer")
    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)

    def rollout(
        self, generate: Callable[[int, int], list[list[Sample]]], read: Callable[..., list[list[float]]]
    ) -> Rollout:
        rows = []
        for i, given in enumerate(generate(self.answers, self.longest)):
            told = read([s.row() for s in given], lambda outputs, batch: outputs.log_probs(), at="base")
            best = max(range(len(given)), key=lambda k: sum(told[k]))
            rows.append((i, given[best].row()))
        return Rollout(rows)
