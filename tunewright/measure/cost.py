"""What a run cost: everything that was spent, by phase, whether or not it ended in the result.

FLOPs are estimates by the usual rule of two floating-point operations a multiplying parameter and token (Kaplan et al.
2020): forward 2N, backward 4N when every weight trains (2N for the activations' gradients, 2N for the weights'), and
2N when nearly all are frozen (adapters). N counts the weights that a token is multiplied with, once each use: not
embeddings that are only looked up, and of stacked experts the share that is active. Attention's products of
activations (12 x layers x width x length a token, forward and backward) are left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from tunewright.machine.devices import sees, wait
from tunewright.machine.host import load_average, peak_memory

Gradients = Literal["none", "adapters", "all"]
_PER_PARAMETER: dict[Gradients, float] = {"none": 2.0, "adapters": 4.0, "all": 6.0}


def multiplying_parameters(model: nn.Module) -> int:
    """N: weights of two or more dimensions that tokens are multiplied with.

    A tied head counts, its look-up does not.
    """
    lookups = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    head_weight = getattr(head, "weight", None)
    own = sum(
        p.numel() * _active_share(model, name, p)
        for name, p in model.named_parameters()
        if p.dim() >= 2 and id(p) not in lookups
    )
    tied = head_weight is not None and id(head_weight) in lookups
    return int(own + (head_weight.numel() if tied and head_weight is not None else 0))


def _active_share(model: nn.Module, name: str, p: torch.Tensor) -> float:
    """Of stacked expert weights [E, out, in] a token sees `num_experts_per_tok`."""
    config = getattr(model, "config", None)
    experts = next((getattr(config, k) for k in ("num_local_experts", "num_experts") if getattr(config, k, None)), None)
    used = getattr(config, "num_experts_per_tok", None)
    return (
        used / experts if experts and used and ".experts." in name and p.dim() == 3 and p.shape[0] == experts else 1.0
    )


def flops(parameters: int, tokens: int, gradients: Gradients = "none") -> float:
    """Estimated FLOPs of `tokens` through a model of N = `parameters`: 2N, 4N (adapters) or 6N (all) a token."""
    return _PER_PARAMETER[gradients] * parameters * tokens


@dataclass
class Phase:
    """What one kind of work cost so far: wall `seconds`, real `tokens` (no padding), estimated `flops`."""

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

    def add(
        self, name: str, *, tokens: int = 0, parameters: int = 0, gradients: Gradients = "none", flops_more: float = 0.0
    ) -> None:
        """Count tokens that went through a model of N = `parameters`, and other FLOPs that are known."""
        entry = self.phases.setdefault(name, Phase())
        entry.tokens += tokens
        entry.flops += flops(parameters, tokens, gradients) + flops_more

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
