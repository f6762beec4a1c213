"""rollout: make the step's rows from samples of the present model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from pydantic import Field, PositiveInt

from tunewright.contract.batch import Row
from tunewright.contract.method import Method
from tunewright.training.rollouts import Rollout, Sample


class SelfImitation(Method):
    """Train on one of several answers that the model gives itself: the one with the largest log-probability."""

    answers: PositiveInt = Field(2, description="answers per prompt")
    longest: PositiveInt = Field(4, description="tokens per answer")
    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)

    def rollout(self, prompts: Sequence[Row], generate: Callable[[int, int], list[list[Sample]]]) -> Rollout:
        best = [max(given, key=lambda s: sum(s.log_probs)) for given in generate(self.answers, self.longest)]
        return Rollout([(i, sample.row()) for i, sample in enumerate(best)])
