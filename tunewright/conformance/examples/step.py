"""step: own the whole inner step."""

from __future__ import annotations

import torch
from pydantic import Field

from tunewright.contract.method import Method
from tunewright.training.inner import Inner


class TwoLooks(Method):
    """Take the gradient a little way up the loss (as SAM does)."""

    radius: float = Field(0.5, gt=0, description="length of the way up", examples=[2.0])

    def step(self, inner: Inner) -> None:
        up = {n: g.clone() for n, g in inner.gradients().items()}
        length = float(torch.stack([g.pow(2).sum() for g in up.values()]).sum().sqrt())
        self._go(inner, up, self.radius / length)
        inner.gradients()
        self._go(inner, up, -self.radius / length)

    @staticmethod
    def _go(inner: Inner, way: dict[str, torch.Tensor], far: float) -> None:
        """Move every trained leaf along a way."""
        with torch.no_grad():
            for name, direction in way.items():
                inner.parameters[name].add_(direction, alpha=far)
        inner.moved()
