"""Meta-schedules: the learning rate of a stream of updates as one schedule over all of them so far (Roth et al. 2024,
arXiv:2408.14471; papers: fomo-in-flux).

Every stage warms up and falls again; how high it rises is read off one schedule that began with the first stage. With S
optimizer steps in the stages before, T in this one, W of them warm-up, and t = 1 ... T, as factors of the peak rate:

    cosine   peak_i = (1 + cos(pi (S + W - W_1) / (S + T - W_1))) / 2       where the warm-up meets the cosine that
             t <= W: peak_i t / W                                            would end with this stage
             after:  peak_i (1 + cos(pi (t - W) / (T - W))) / 2
    rsqrt    r(t) = sqrt(V / (V + S + t - W_1)),  V = max(W_1, 1)             1 at the end of the first warm-up
             t <= W: r(W) t / W;   then r(t);   in the last `cooldown` of T to 0 in a line

W_1 is the first stage's warm-up. In the first stage cosine is the schedule that every stage had without it. S goes from
stage to stage by name (`steps`), along the stages that one starts from.

Defaults: warm-up 10 % and cooldown 20 % of a stage's steps are ours.
Differs from the paper in: its formulae could not be read (the code is not public); these follow its description, by
which a stage's peak lies where its warm-up meets a schedule over all updates so far, or goes on by rsqrt.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field

from tunewright.contract.method import Method, Plan, Setup, State

NAME = "meta-schedule"


def half_cosine(done: float) -> float:
    """1 at 0, 0 at 1 and beyond."""
    return (1 + math.cos(math.pi * min(1.0, max(0.0, done)))) / 2


class MetaSchedule(Method):
    """One learning-rate schedule over all updates so far, which each stage warms up to."""

    kind: Literal["cosine", "rsqrt"] = Field("cosine", description="the schedule over all stages", examples=["rsqrt"])
    warmup: float = Field(
        0.1, gt=0, lt=1, description="share of a stage's steps in which the rate rises; at least one", examples=[0.4]
    )
    cooldown: float = Field(
        0.2, gt=0, lt=1, description="share of a stage's last steps in which rsqrt falls to 0", examples=[0.5]
    )

    leaves: ClassVar[tuple[str, ...]] = ("steps", "first")
    papers: ClassVar[tuple[str, ...]] = ("fomo-in-flux",)
    conformance: ClassVar[dict[str, object]] = {"kind": "rsqrt", "warmup": 0.3}
    conformance_stages: ClassVar[int] = 2

    def setup(self, run: Setup) -> State:
        left, warmup = run.earlier.inherited(NAME), self._warmup(run.plan)
        before = 0 if left is None else int(left.values["steps"])
        return State(before=before, steps=before, first=warmup if left is None else int(left.values["first"]))

    def caution(self, plan: Plan) -> str | None:
        if self._warmup(plan) < plan.steps:
            return None
        return f"the rate does not fall again: the warm-up takes all {plan.steps} steps"

    def schedule(self, step: int, plan: Plan, state: State) -> float:
        warmup, before, first, t = self._warmup(plan), state.data["before"], state.data["first"], step + 1
        state.data["steps"] = before + t
        if self.kind == "cosine":
            peak = half_cosine((before + warmup - first) / max(1, before + plan.steps - first))
            after = peak * half_cosine((t - warmup) / max(1, plan.steps - warmup))
        else:
            scale = max(first, 1)
            peak, after = (math.sqrt(scale / (scale + before + at - first)) for at in (warmup, t))
            after *= min(1.0, (plan.steps - t) / max(1.0, self.cooldown * plan.steps))
        return peak * t / warmup if t <= warmup else after

    def _warmup(self, plan: Plan) -> int:
        """Optimizer steps in which the rate rises."""
        return max(1, round(self.warmup * plan.steps))
