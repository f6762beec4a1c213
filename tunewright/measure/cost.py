"""What a run cost: everything that was spent, by phase, whether or not it ended in the result.

FLOPs are counted as they happen (`models/flops.py`): training's, and those of statistics before it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from tunewright.machine.devices import sees, wait
from tunewright.machine.host import load_average, peak_memory


@dataclass
class Phase:
    """What one kind of work cost so far: wall `seconds`, real `tokens` (no padding), counted `flops`."""

    seconds: float = 0.0
    tokens: int = 0
    flops: float = 0.0
    times: int = 0


@dataclass
class Cost:
    """A ledger by phase ("set-up", "base measured", "train", ...). Phases nest: inner seconds are not counted outside
    too.

    `load_at_start` stands beside every figure in seconds, since a busy machine is a slow one. `state()` and `restore()`
    carry it over a resume, so that what was spent before an interruption still counts.
    """

    phases: dict[str, Phase] = field(default_factory=dict)
    load_at_start: float | None = field(default_factory=load_average)
    peak_memory: int = 0
    peak_cuda: int | None = None
    _open: list[list[float]] = field(default_factory=list, repr=False)

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """Time what runs inside, whether it ends well or not; add tokens through the phase that is given."""
        entry = self.phases.setdefault(name, Phase())
        inner = [0.0]
        self._open.append(inner)
        start = time.perf_counter()
        try:
            yield entry
        finally:
            for device in ("cuda", "mps"):
                if sees(device):
                    wait(device)
            spent = time.perf_counter() - start
            self._open.pop()
            if self._open:
                self._open[-1][0] += spent
            entry.seconds += spent - inner[0]
            entry.times += 1
            self._peaks()

    def elsewhere(self, seconds: float) -> None:
        """Seconds in which somebody else worked while a phase was open here: they are not counted in it."""
        if self._open:
            self._open[-1][0] += seconds

    def add(self, name: str, *, tokens: int = 0, flops: float = 0.0) -> None:
        """Count tokens and operations of a phase."""
        entry = self.phases.setdefault(name, Phase())
        entry.tokens += tokens
        entry.flops += flops

    def _peaks(self) -> None:
        self.peak_memory = max(self.peak_memory, peak_memory())
        if torch.cuda.is_available():
            self.peak_cuda = max(self.peak_cuda or 0, torch.cuda.max_memory_allocated())

    @property
    def total(self) -> Phase:
        """The sum over phases."""
        every = self.phases.values()
        return Phase(
            sum(p.seconds for p in every),
            sum(p.tokens for p in every),
            sum(p.flops for p in every),
            sum(p.times for p in every),
        )

    def state(self) -> dict[str, Any]:
        """JSON values of everything spent so far."""
        self._peaks()
        phases = {name: asdict(p) for name, p in self.phases.items()}
        return {
            "phases": phases,
            "load_at_start": self.load_at_start,
            "peak_memory": self.peak_memory,
            "peak_cuda": self.peak_cuda,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what was spent before; what this process spent so far is added to it."""
        for name, before in state["phases"].items():
            now = self.phases.setdefault(name, Phase())
            for key, value in before.items():
                setattr(now, key, getattr(now, key) + value)
        self.load_at_start = state["load_at_start"]
        self.peak_memory = max(self.peak_memory, state["peak_memory"])
        if state["peak_cuda"] is not None:
            self.peak_cuda = max(self.peak_cuda or 0, state["peak_cuda"])
