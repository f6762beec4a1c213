"""reward: score samples, one number each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from tunewright.contract.method import Method
from tunewright.training.rollouts import Sample


class Brevity(Method):
    """Reward answers whose length is near a wish."""

    wish: int = Field(3, ge=1, description="tokens", examples=[1])
    requires: ClassVar[tuple[str, ...]] = ("rollout",)
    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    conformance_beside: ClassVar[dict[str, dict[str, Any]]] = {"grpo": {"samples": 4, "max_new_tokens": 4}}

    def reward(self, samples: Sequence[Sample]) -> list[float]:
        return [-abs(len(s.ids) - self.wish) - 0.1 * (s.ids[0] % 3) for s in samples]
