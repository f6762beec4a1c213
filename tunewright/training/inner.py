"""What a method may see of a step: how far a trained weight has moved, and gradients as often as it likes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from tunewright.contract.batch import Row
from tunewright.training.trained import Trained


class Steps(Protocol):
    """The part of a loop that a method's own inner step works with."""

    @property
    def trained(self) -> Trained: ...
    def gradients(self, rows: Sequence[tuple[Row, int]]) -> dict[str, Any]: ...


@dataclass
class TrainedWeight:
    """A trained weight: `change()` [out, in] since the stage began, differentiable."""

    site: Any
    deltas: list[Any]
    start: Tensor | None

    def change(self) -> Tensor:
        total: Any = 0.0
        for d in self.deltas:
            total = total + d.change()
        if self.start is not None:
            moved = self.site.weight - self.start
            total = total + (
                moved.t() if self.site.kind == "conv1d" else moved.flatten(1) if self.site.kind == "conv" else moved
            )
        result: Tensor = total
        return result


class Inner:
    """What a method that owns the inner step may do: compute gradients at the present weights, as often as it likes.

    The last call of `gradients()` leaves the gradients with which the optimizer steps.
    """

    def __init__(self, loop: Steps, rows: Sequence[tuple[Row, int]]):
        self._loop, self._rows = loop, rows
        self.record: dict[str, Any] = {}

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Trained leaves by name; after moving them call `moved()`."""
        return self._loop.trained.parameters()

    def gradients(self) -> dict[str, Tensor]:
        """Gradients of this step's rows at the present weights."""
        self.record = self._loop.gradients(self._rows)
        return self._loop.trained.gradients()

    def moved(self) -> None:
        """Make moved leaves take effect where only entries of a tensor train."""
        self._loop.trained.write_back()
