"""What a run will take, in seconds and bytes: the figures of an estimate."""

from __future__ import annotations

from dataclasses import dataclass, field

from tunewright.runs.stages import TrainingOutcome


@dataclass
class StageEstimate:
    """One stage. Seconds: `set_up` (statistics included), `train` all of its training. Bytes: `checkpoint` one of them,
    `kept` what the finished stage leaves. `tokens` and `steps` are what the budget allows (`exact`: to the step),
    `losses` those of the probe's steps, and `result` what the probe trained, its parameters by name.

    Of one process, in bytes: `weights` of the model and what hangs on it, `gradients`, `state` of the optimizer and the
    methods, and `kept_for_backward` of one micro-batch of `micro_tokens`; a step has `step_tokens`, each of
    `flops_per_token` operations forward and backward. `divisible`: of the weights, those that `train.fsdp` divides;
    `together`: of these, those that are brought together at once; `divisible_gradients`: of the gradients, theirs.
    """

    name: str
    steps: int
    tokens: int
    exact: bool
    set_up: float
    seconds_per_token: float
    train: float
    checkpoint: int
    kept: int
    losses: list[float]
    result: TrainingOutcome
    weights: int = 0
    gradients: int = 0
    state: int = 0
    kept_for_backward: int = 0
    micro_tokens: float = 0.0
    step_tokens: float = 0.0
    flops_per_token: float = 0.0
    divisible: int = 0
    together: int = 0
    divisible_gradients: int = 0


@dataclass
class Estimate:
    """A whole run, in seconds and bytes. `base` is 0 when its readings are `cached`. `peak_memory` is the most this
    process held (resident), `peak_cuda` the most torch took on the GPU. `between`: measuring after stages but the
    last.
    """

    stages: list[StageEstimate] = field(default_factory=list)
    base: float = 0.0
    cached: bool = False
    tuned: float = 0.0
    dial: float = 0.0
    evaluations: float = 0.0
    between: float = 0.0
    disk: int = 0
    peak_memory: int = 0
    peak_cuda: int | None = None

    @property
    def train(self) -> float:
        """Seconds of training, all stages."""
        return sum(s.train for s in self.stages)

    @property
    def total(self) -> float:
        """Seconds of everything but loading, probes and writing the report."""
        measured = self.base + self.evaluations + self.between + self.tuned + self.dial
        return sum(s.set_up for s in self.stages) + self.train + measured
