"""numeric-answer: 1 for a sample whose last number is the reference's last number, whatever is written around it.

A reward for arithmetic that asks for no format: "so she pays 1,250.0 dollars" answers "#### 1250". Numbers are read
with sign, thousands commas and decimals, and compared as exact decimals, or within `tolerance`. A sample without a
number gets 0, as does every sample of a reference without one. Something to climb where right answers are rare:
`parsed` > 0 is what a wrong number gets at least (0.1 in ReFT, Luong et al. 2024, arXiv:2401.08967), and `near` > 0
gives it near / (1 + |difference|), less than 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat

from tunewright.contract.method import Method
from tunewright.training.rollouts import Sample

NUMBER = re.compile(r"(?<![\w.])[-\u2212]?\$?\d+(?:,\d{3})*(?:\.\d+)?(?![\d])")


def last_number(text: str) -> Decimal | None:
    """The last number that a text names, exactly; None when it names none."""
    numbers = NUMBER.findall(text)
    return Decimal(numbers[-1].replace(",", "").replace("$", "").replace("\u2212", "-")) if numbers else None


def numeric_answer(said: str, reference: str, tolerance: float = 0.0, near: float = 0.0, parsed: float = 0.0) -> float:
    """1 when the last numbers of both agree within `tolerance`, else the larger of `parsed` and near / (1 +
    |difference|); 0 where one has none.
    """
    a, b = last_number(said), last_number(reference)
    if a is None or b is None:
        return 0.0
    away = abs(a - b)
    return 1.0 if away <= Decimal(tolerance) else max(parsed, near / (1.0 + float(away)))


class NumericAnswer(Method):
    """Reward an answer that ends on the right number."""

    tolerance: NonNegativeFloat = Field(
        0.0, description="largest difference that still counts as right", examples=[20.0]
    )
    near: float = Field(
        0.0, ge=0, le=1, description="reward of a wrong number, divided by 1 + its distance", examples=[0.5]
    )
    parsed: float = Field(
        0.0, ge=0, le=1, description="reward of an answer that names a number at all, at least", examples=[0.9]
    )
    weight: PositiveFloat = Field(1.0, description="weight of this reward in the sum", examples=[0.5])

    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    requires: ClassVar[tuple[str, ...]] = ("rollout",)
    conformance: ClassVar[dict[str, object]] = {"near": 1.0}
    conformance_beside: ClassVar[dict[str, dict[str, Any]]] = {"grpo": {"samples": 4, "max_new_tokens": 3}}

    def reward(self, samples: Sequence[Sample]) -> list[float]:
        return [
            numeric_answer(s.text, s.prompt.fields["reference"], self.tolerance, self.near, self.parsed)
            for s in samples
        ]
