"""What a recipe takes on machines that are not here: whether it fits, and how long its training is, by a stated model.

Memory of one process: weights, gradients, the optimizer's and methods' state, what a micro-batch keeps for its backward
(counted in a step that was done here; a step of n processes is cut into n micro-batches at least), and a tenth and 1 GB
on top for what torch and the driver need. The whole model is in each process; where the recipe divides the weights
(`train.fsdp`), an n-th of them with its gradients and state, and what is brought together at once: what lies outside
the blocks, and two blocks (where they train, with gradients).

Seconds: operations as they were counted here, at 15 to 45 % of the device's peak, the share that training of small and
of well-filled batches reaches; never less than reading weights three times a micro-batch and the state twice a step,
nor than 10 to 50 ms a micro-batch, which starting its operations takes; and summing gradients in a ring, 2 (n - 1) / n
times their bytes over the link. Divided weights are brought together twice a micro-batch, and their gradients summed
once, (n - 1) / n of their bytes each time. Loading and measuring are not in it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from tunewright.machine.on_paper import Machines
from tunewright.planning.estimated import StageEstimate

FAST, SLOW = 0.45, 0.15
STARTED = {FAST: 0.01, SLOW: 0.05}
"""Seconds that a micro-batch takes at least, at best and at worst."""
SPARE, CONTEXT = 0.1, 1e9
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass
class StageOnPaper:
    """One stage on machines: bytes of one process by what takes them, and the seconds that its training takes, at best
    and at worst. `kept`: for the backward of one micro-batch.
    """

    name: str
    weights: int
    gradients: int
    state: int
    kept: int
    spare: int
    fastest: float
    slowest: float
    summing: float

    @property
    def memory(self) -> int:
        return self.weights + self.gradients + self.state + self.kept + self.spare


@dataclass
class OnPaper:
    """All stages on `machines` of `memory` bytes each. `precision`: what was reckoned with; `divided`: whether weights
    were divided.
    """

    machines: str
    count: int
    memory: int
    precision: str
    stages: list[StageOnPaper]
    divided: bool = False

    @property
    def needs(self) -> int:
        """Bytes of the largest stage."""
        return max((s.memory for s in self.stages), default=0)

    @property
    def fits(self) -> bool:
        return self.needs <= self.memory


def on_paper(
    stages: list[StageEstimate],
    precision: str,
    machines: Machines,
    *,
    divided: bool = False,
    offloaded: Collection[str] = (),
) -> OnPaper:
    """What stages that were probed here take there, each process in the precision that the probe had; where the device
    has no bfloat16, in float32. `divided`: whether several divide the weights among them. `offloaded`: stages whose
    activations lie on the host.
    """
    device = machines.device
    wanted = "float32" if device.peak(precision) is None else precision
    wider = BYTES[wanted] / BYTES[precision]
    peak = device.peak(wanted)
    assert peak is not None
    there = [replace(s, kept_for_backward=0) if s.name in offloaded else s for s in stages]
    found = [_stage(s, machines, peak, wider, divided and machines.count > 1) for s in there]
    return OnPaper(str(machines), machines.count, int(machines.memory), wanted, found, divided and machines.count > 1)


def _stage(stage: StageEstimate, machines: Machines, peak: float, wider: float, divided: bool) -> StageOnPaper:
    n, device = machines.count, machines.device
    weights, gradients, state = round(stage.weights * wider), round(stage.gradients * wider), stage.state
    read, own = weights, gradients
    parted = round(stage.divisible_gradients * wider) if divided else 0
    if divided:
        trains = 2 if stage.divisible_gradients else 1  # what is together has its gradients there as well
        weights += round((stage.divisible * (1 / n - 1) + min(stage.divisible, stage.together) * trains) * wider)
        state = round(state * (1 - (1 - 1 / n) * parted / max(1, gradients)))
        gradients -= parted
        own = gradients + parted // n
    share = min(stage.micro_tokens, stage.step_tokens / n) / max(1.0, stage.micro_tokens)
    kept = round(stage.kept_for_backward * wider * share)
    held = weights + own + state + kept
    micro = max(1.0, stage.step_tokens / n / max(1.0, stage.micro_tokens * share))
    traffic = (3 * read * micro + 2 * (state + own)) / device.bandwidth
    summing = 2 * (n - 1) / n * gradients / device.link
    if divided:
        summing += (n - 1) / n * micro * (2 * stage.divisible * wider + parted) / device.link
    computing = stage.flops_per_token * stage.step_tokens / n / peak
    fastest, slowest = (
        stage.steps * (max(computing / of_peak, traffic, micro * STARTED[of_peak]) + summing)
        for of_peak in (FAST, SLOW)
    )
    spare = round(SPARE * held + CONTEXT)
    return StageOnPaper(stage.name, weights, own, state, kept, spare, fastest, slowest, stage.steps * summing)
