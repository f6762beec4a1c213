"""Early replay: old data are replayed at the beginning of a stage alone (Elhady et al. 2025, arXiv:2506.00288, their
curriculum; papers: language-cpt-emergence).

With T optimizer steps, the sources of `data.replay` keep their shares of the tokens in the first `until` T steps. From
then on they have none, and the new sources divide all tokens in their own proportions. What a model can do from its
context is lost in the first steps in another language; later ones no longer need the old data.

Raises MethodError before training when the recipe replays nothing.

Default: `until` 0.05, from the authors' configuration (500 of 10,000 steps, English a fifth of the tokens).
Differs from the paper in: its text could not be read; the switch is at once, as in that configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from tunewright.contract.method import Method, Plan, Setup, State
from tunewright.errors import MethodError


class EarlyReplay(Method):
    """Replay old data in the first steps of a stage, and none later."""

    until: float = Field(
        0.05, gt=0, lt=1, description="share of the stage's steps in which old data are replayed", examples=[0.5]
    )

    papers: ClassVar[tuple[str, ...]] = ("language-cpt-emergence",)
    conformance: ClassVar[dict[str, object]] = {"until": 0.5}

    def setup(self, run: Setup) -> State:
        if not run.plan.replay:
            raise MethodError(
                "'early-replay' replays old data at the beginning, and the recipe names none",
                where="data.replay",
                remedy="name it with its share: data: {replay: {general.txt: 0.2}}",
            )
        return State()

    def caution(self, plan: Plan) -> str | None:
        if (plan.steps - 1) / plan.steps >= self.until:
            return None
        return f"old data are replayed to the end: {self.until:g} of {plan.steps} steps is the whole stage"

    def mixture(self, weights: Mapping[str, float], step: int, plan: Plan) -> dict[str, float] | None:
        if step / plan.steps < self.until:
            return None
        return {n: 0.0 if n in plan.replay else w for n, w in weights.items()}
