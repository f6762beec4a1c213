"""One stage's random numbers on every device that it trains on: seeded, saved with a checkpoint, drawn again.

Dropout draws from torch's default generator of the device where it runs. The stage has states of its own for them, and
lends them to the default generators while it trains, so that the caller's are left as they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from tunewright.models.generators import CPU, States, present, put

FIRST = "dropout"
"""The name of the CPU's state in a checkpoint; other devices have theirs beside it ("dropout.cuda0")."""


class Randomness:
    """The states from which a stage goes on drawing: of the CPU and of the GPUs among `devices`.

    Each starts from (seed, index of the stage), whatever the process drew before.
    """

    def __init__(self, seed: int, index: int, *devices: torch.device | str):
        start = seed * 1_000_003 + index
        others = {_numbered(torch.device(d)) for d in devices}
        self.devices = [CPU, *sorted((d for d in others if d.type in ("cuda", "mps")), key=str)]
        # a second GPU must not drop the same places as the first
        self._states: States = {
            d: torch.Generator(device=d).manual_seed(start + max(0, i - 1)).get_state()
            for i, d in enumerate(self.devices)
        }

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Inside, the default generators draw from here; on leaving they are the caller's again."""
        callers = self.now()
        put(self._states)
        try:
            yield
        finally:
            put(callers)

    def now(self) -> States:
        """The default generators' present states, for `again`."""
        return present(self.devices)

    def again(self, states: States) -> None:
        """Draw from here on what was drawn since `states` was taken."""
        put(states)

    def remember(self) -> None:
        """What is drawn next comes after what was drawn so far; see `back`."""
        self._states = self.now()

    def back(self) -> None:
        """Undo draws since `remember`: somebody else's, who was let in between two steps."""
        put(self._states)

    def state(self) -> dict[str, Tensor]:
        """The kept states by name, for a checkpoint."""
        return {name: self._states[d] for name, d in self._names().items()}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Put `state` back. A device that is not in it keeps its seed: it had none, or the checkpoint is an old one."""
        self._states = {d: saved.get(name, self._states[d]) for name, d in self._names().items()}

    def _names(self) -> dict[str, torch.device]:
        """Devices by their place among those of their type: a run may go on with another GPU than it began with."""
        names, counts = {FIRST: CPU}, dict[str, int]()
        for d in self.devices[1:]:
            count = counts.setdefault(d.type, 0)
            names[f"{FIRST}.{d.type}{count}"] = d
            counts[d.type] += 1
        return names


def _numbered(device: torch.device) -> torch.device:
    """A device with the number that "cuda" alone stands for."""
    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device
