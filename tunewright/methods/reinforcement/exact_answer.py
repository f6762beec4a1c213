"""exact-answer: 1 for a sample that says the reference, else 0: a reward that can be checked, with nothing learned in
it.

Both texts are compared in their normal form (Unicode NFKC, runs of white space as one space, ends stripped), as the
metric exact_match has it. `partial` > 0 gives a wrong answer that share of the reference's characters which it has
right from the start, times `partial`: something to climb where whole answers are rare.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from os.path import commonprefix
from typing import Any, ClassVar

from pydantic import Field, PositiveFloat

from tunewright.contract.method import Method
from tunewright.training.rollouts import Sample


def normal(text: str) -> str:
    """The form in which answers are compared."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def exact_answer(said: str, reference: str, partial: float = 0.0) -> float:
    """1 when both say the same, else `partial` times the share of the reference that is right from its start."""
    a, b = normal(said), normal(reference)
    return 1.0 if a == b else partial * len(commonprefix([a, b])) / max(1, len(b))


class ExactAnswer(Method):
    """Reward an answer that equals the row's reference."""

    partial: float = Field(
        0.0, ge=0, lt=1, description="reward of a wrong answer whose start is right, at most", examples=[0.5]
    )
    weight: PositiveFloat = Field(1.0, description="weight of this reward in the sum", examples=[0.5])

    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    requires: ClassVar[tuple[str, ...]] = ("rollout",)
    conformance: ClassVar[dict[str, object]] = {"partial": 0.9}
    conformance_beside: ClassVar[dict[str, dict[str, Any]]] = {"grpo": {"samples": 4, "max_new_tokens": 3}}

    def reward(self, samples: Sequence[Sample]) -> list[float]:
        return [exact_answer(s.text, s.prompt.fields["reference"], self.partial) for s in samples]
