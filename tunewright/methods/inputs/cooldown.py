"""Cooldown: sample small sources often at first, less later (Li et al. 2024, arXiv:2410.04579; papers: cooldown).

With n_i tokens in source i, the share of the tokens drawn from it is

    p_i = n_i^(1/tau) / sum_j n_j^(1/tau)

tau = 1: in proportion to size; larger tau: flatter; infinite tau: equal shares. Drawing a source more often equals
weighting its loss more under full gradient descent, but under SGD it has the smaller variance: it converges faster and
overfits small sources. So tau starts high and comes down to its final value: at once at the step `switch`, or along a
straight line up to there. The shares take the place of the recipe's weights; replayed sources keep their share.

Raises MethodError before training when there are not at least two sources to balance.

Differs from the paper in: only its abstract and summaries were read, so the temperatures (the usual 5 and 1 of
multilingual training), the switch and the line are choices of ours; n_i counts tokens, not sentences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from tunewright.contract.method import Method, Plan, Setup, State
from tunewright.errors import MethodError


def shares(sizes: Mapping[str, int], temperature: float) -> dict[str, float]:
    """p_i from the sizes (all above 0, any unit) at temperature tau > 0 (may be infinite). Sums to 1."""
    largest = max(sizes.values())
    raised = {n: (size / largest) ** (1.0 / temperature) for n, size in sizes.items()}
    total = sum(raised.values())
    return {n: r / total for n, r in raised.items()}


def temperature_at(
    progress: float, initial: float, final: float, switch: float, shape: Literal["step", "linear"]
) -> float:
    """tau when `progress` (0..1) of the stage is done."""
    if progress >= switch:
        return final
    return initial if shape == "step" else initial + (final - initial) * progress / switch


class Cooldown(Method):
    """Temperature sampling over the sources, with a temperature that comes down."""

    initial: float = Field(5.0, ge=1, description="sampling temperature tau at the start", examples=[20.0])
    final: float = Field(1.0, ge=1, description="sampling temperature tau from the switch on", examples=[3.0])
    switch: float = Field(
        0.5, gt=0, le=1, description="share of the stage's steps after which tau is the final one", examples=[0.3, 1.0]
    )
    shape: Literal["step", "linear"] = Field(
        "step", description="how tau comes down: at once at the switch, or along a line up to it", examples=["linear"]
    )

    papers: ClassVar[tuple[str, ...]] = ("cooldown",)

    def setup(self, run: Setup) -> State:
        if len(set(run.plan.sources) - set(run.plan.replay)) < 2:
            remedy = "name more: data: {train: [small.jsonl, large.jsonl]}"
            raise MethodError(
                f"'cooldown' balances sources, and there is only {list(run.plan.sources)}",
                where="data.train",
                remedy=remedy,
            )
        return State()

    def caution(self, plan: Plan) -> str | None:
        reached = any(step / plan.steps >= self.switch for step in range(plan.steps))
        if reached or self.initial == self.final or (self.shape == "linear" and plan.steps > 1):
            return None
        return (
            f"the temperature stays at {self.initial:g}: the switch at {self.switch:g} of {plan.steps} steps is its end"
        )

    def mixture(self, weights: Mapping[str, float], step: int, plan: Plan) -> dict[str, float]:
        tau = temperature_at(step / plan.steps, self.initial, self.final, self.switch, self.shape)
        rest = sum(w for n, w in weights.items() if n not in plan.replay)
        balanced = shares({n: size for n, size in plan.sources.items() if n not in plan.replay}, tau)
        return {**weights, **{n: rest * share for n, share in balanced.items()}}
