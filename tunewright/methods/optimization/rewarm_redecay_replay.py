"""Re-warm, re-decay, replay: continued pre-training from a finished model (Ibrahim et al. 2024, arXiv:2403.08763;
papers: rewarm-redecay-replay).

The learning rate is warmed up again, decays once more over the new tokens, and a little of the old data is mixed in.
With t = 1 ... T optimizer steps and Tw of them warm-up, as factors of the peak rate (f: the floor, lr_min / lr_max):

    t <= Tw:  w + (1 - w) t / Tw          w: where the warm-up starts
    after:    f + (1 - f) (1 + cos(pi (t - Tw) / (T - Tw))) / 2,   f beyond T (the cosine would climb again)

Replay with share a keeps the total: each new source has (1 - a) new_i / sum new of the tokens, each old one
a old_j / sum old. Which sources are old, and their share, is written once, in `data.replay`; `replay` here replaces
their sum. a = 0 leaves the order of the new data as it is. The optimizer's state starts empty in every stage.

Raises MethodError before training when the recipe replays nothing, unless `replay` is 0.

Differs from the paper in: the authors' code (gpt-neox) runs a cosine towards 0 over all T steps and cuts it off at the
floor, which it so reaches before the end.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import ClassVar

from pydantic import Field

from tunewright.contract.method import Method, Plan, Setup, State
from tunewright.errors import MethodError


def rewarmed(t: int, warmup: int, steps: int, floor: float, start: float = 0.0) -> float:
    """Factor of the peak rate after t of `steps` steps: 1 at t = warmup, `floor` at t >= steps."""
    if t < warmup:
        return start + (1 - start) * t / warmup
    progress = min(1.0, (t - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def with_share(weights: Mapping[str, float], old: Collection[str], share: float) -> dict[str, float]:
    """Weights under which the `old` sources take `share` (0..1) of the tokens together; each side keeps its
    proportions. A side without weight has none.
    """
    sums = {side: sum(w for n, w in weights.items() if (n in old) == side) or 1.0 for side in (True, False)}
    return {n: w / sums[n in old] * (share if n in old else 1 - share) for n, w in weights.items()}


class RewarmRedecayReplay(Method):
    """Warm up again, decay again, replay some old data."""

    warmup: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="share of the steps in which the rate rises; at least one step",
        examples=[0.25, 0.0],
    )
    start: float = Field(
        0.0, ge=0, le=1, description="the rate at which the warm-up starts, as a factor of the peak", examples=[0.5]
    )
    floor: float = Field(0.1, ge=0, lt=1, description="the rate at the end, as a factor of the peak", examples=[0.5])
    replay: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of old data in the tokens; none: as data.replay says; 0: none",
        examples=[0.3, 0.0],
    )

    papers: ClassVar[tuple[str, ...]] = ("rewarm-redecay-replay",)
    conformance: ClassVar[dict[str, object]] = {"warmup": 0.5}

    def setup(self, run: Setup) -> State:
        if not run.plan.replay and self.replay != 0:
            remedy = "name it: data: {replay: {general.txt: 0.05}}; or go without: {rewarm-redecay-replay: {replay: 0}}"
            raise MethodError(
                "'rewarm-redecay-replay' replays old data, and the recipe names none",
                where="data.replay",
                remedy=remedy,
            )
        return State()

    def caution(self, plan: Plan) -> str | None:
        if self._warmup(plan) < plan.steps:
            return None
        return f"the rate does not decay again: the warm-up takes all {plan.steps} steps"

    def schedule(self, step: int, plan: Plan) -> float:
        return rewarmed(step + 1, self._warmup(plan), plan.steps, self.floor, self.start)

    def _warmup(self, plan: Plan) -> int:
        """Optimizer steps in which the rate rises: at least one, unless there are none."""
        return max(1, round(self.warmup * plan.steps)) if self.warmup else 0

    def mixture(self, weights: Mapping[str, float], plan: Plan) -> dict[str, float] | None:
        return with_share(weights, plan.replay, self.replay) if self.replay is not None and plan.replay else None
