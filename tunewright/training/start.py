"""The values with which a stage began, lent to the model for the while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Start:
    """What trains as it was when the stage began: deltas and method-owned tensors, copied when this is made.

    It is made while the model holds the stage's start, whether the run goes on from a checkpoint or not; weights of the
    base are noted by the loop (`loop.starts`), each when it is first drawn.
    """

    def __init__(self, loop: Any):
        self._loop = loop
        kept = {**loop.adapted.trainable_deltas(), **loop.trained.owned}
        self.values: dict[str, Tensor] = {n: p.detach().clone() for n, p in kept.items()}

    @contextmanager
    def there(self) -> Iterator[None]:
        """The values of the start in the places of what trains, and back."""
        loop, swapped = self._loop, list[tuple[nn.Parameter, Tensor]]()
        trained = {**loop.adapted.base_parameters(), **loop.adapted.trainable_deltas(), **loop.trained.owned}
        try:
            for name, value in {**loop.starts, **self.values}.items():
                swapped.append((trained[name], trained[name].data))
                trained[name].data = value
            yield
        finally:
            for p, data in swapped:
                p.data = data
