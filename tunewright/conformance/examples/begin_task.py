"""begin_task: be told that a stage begins."""

from __future__ import annotations

import random
from typing import ClassVar

import torch
from pydantic import Field

from tunewright.contract.method import Method, torch_generator
from tunewright.models.adapted import Adapted


class NoisyStart(Method):
    """Begin a little way off."""

    scale: float = Field(0.01, gt=0, description="standard deviation of the noise", examples=[0.1])
    identity: ClassVar[bool] = False

    def begin_task(self, adapted: Adapted, rng: random.Random) -> None:
        generator = torch_generator(rng)
        for name, p in adapted.base_parameters().items():
            adapted.remember(name)
            p.data.add_(torch.randn(p.shape, generator=generator).to(p), alpha=self.scale)
