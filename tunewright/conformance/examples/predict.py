"""predict: change how the tuned model decodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from tunewright.contract.method import Method


class Contrast(Method):
    """Push away from the base: (1 + a) tuned - a base."""

    a: float = Field(0.5, ge=0, description="how far", examples=[1.0])
    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)

    def speakers(self) -> tuple[str, ...]:
        return ("tuned", "base")

    def predict(self, logits: Mapping[str, Tensor]) -> Tensor:
        return (1 + self.a) * logits["tuned"] - self.a * logits["base"]
