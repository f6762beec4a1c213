"""Gradients of a model in float16: the loss is multiplied before the backward pass, so that small gradients do not
vanish, and what comes back is divided again (Micikevicius et al. 2018, "Mixed Precision Training").

float16 ends at 65504 and has nothing below 6e-8. A backward pass whose gradients are not finite under the present
factor is done again with half of it, so that no step is left out; after `PATIENCE` passes without that the factor
doubles. In another precision nothing is multiplied and nothing is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from tunewright.errors import NonFiniteError
from tunewright.training import divided

R = TypeVar("R")

FIRST, LEAST, MOST = 2.0**16, 1.0, 2.0**24
"""The factor at first, and its bounds; torch's GradScaler begins there too."""
PATIENCE = 2000
"""Passes without an overflow after which the factor doubles, as in torch's GradScaler."""


class Scale:
    """The factor of a loop's losses: `value` is None where no trained path goes through float16."""

    def __init__(self, loop: Any):
        self._loop = loop
        half = any(p.dtype == torch.float16 for p in loop.adapted.outer.parameters())
        self.value: float | None = FIRST if half else None
        self.good = 0

    def backward(self, loss: Tensor) -> None:
        """`loss.backward()`, of the loss times the factor."""
        (loss if self.value is None else loss * self.value).backward()

    def settled(self, compute: Callable[[], R]) -> R:
        """What `compute` gives, which fills the leaves' gradients by `backward`: gradients are of the loss itself
        afterwards. It is called again, from the same random numbers, where they overflow. NonFiniteError where they do
        so under every factor.
        """
        loop = self._loop
        drawn = None if self.value is None else loop.randomness.now()
        while True:
            loop.trained.zero_grad()
            found = compute()
            if drawn is None or self._divided():
                return found
            loop.randomness.again(drawn)

    def _divided(self) -> bool:
        """Divide the gradients by the factor; False, with half the factor, where one of them is not finite."""
        assert self.value is not None
        loop = self._loop
        gradients = list(loop.trained.gradients().values())
        bad = torch.tensor([float(sum(not bool(torch.isfinite(g).all()) for g in gradients))])
        loop.group.sum([bad])  # of what processes hold parts of each sees its own
        if float(bad):
            if self.value <= LEAST:
                raise NonFiniteError(
                    f"the gradient of '{divided.not_finite(loop)}' is not finite in float16",
                    where=f"step {loop.step_number + 1}",
                    remedy="write train.precision: bfloat16 (or float32), or lower train.learning_rate",
                )
            self.value, self.good = self.value / 2, 0
            return False
        for g in gradients:
            g.div_(self.value)
        self.good += 1
        if self.good >= PATIENCE:
            self.value, self.good = min(2 * self.value, MOST), 0
        return True

    def state(self) -> dict[str, float] | None:
        """For a checkpoint; None where nothing is multiplied."""
        return None if self.value is None else {"value": self.value, "good": self.good}

    def restore(self, saved: Mapping[str, float] | None) -> None:
        """Put `state` back."""
        if saved is not None and self.value is not None:
            self.value, self.good = saved["value"], int(saved["good"])
