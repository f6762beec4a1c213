"""Skill-It: sample the sources from which losses that are still high are learnt (Chen et al. 2023, arXiv:2307.14430;
papers: skill-it).

Sources are skills. `edges` say how much training on skill i helps skill j (A_ij >= 0; what is not written is 0, and a
skill helps itself by 1). Every `update_steps` steps the losses L_j of the validation rows of each skill are taken, and
the shares become

    p_i  proportional to  w_i exp(eta sum_j A_ij sum of the last `window` L_j)

with w the shares that the stage began with: online mirror descent whose memory is the window. Validation rows come from
`data.validation`, by source name; a source without any has no loss of its own and is sampled for what it helps.
Replayed sources keep their share.

Defaults: window 3 and no normalising (the authors' code); eta 0.1 (their addition task; they search 0.1 to 0.8). How
often to update is theirs per task; 20 steps here.
Differs from the authors' code in: the first shares come from the first losses, where theirs start from the uniform
weights themselves. The graph is given: measuring it by short runs on pairs of skills is theirs, and not done here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, PositiveFloat, PositiveInt

from tunewright.contract.method import Method, Plan, Setup, State
from tunewright.errors import MethodError, did_you_mean


def mirrored(
    start: Mapping[str, float], edges: Mapping[str, Mapping[str, float]], losses: Mapping[str, float], eta: float
) -> dict[str, float]:
    """Shares of the sources of `start`, summing to what they sum to there; `losses` are summed over the window."""
    gains = {i: sum(a * losses.get(j, 0.0) for j, a in _helped(i, edges).items()) for i in start}
    highest = max(gains.values(), default=0.0)
    raised = {i: w * math.exp(eta * (gains[i] - highest)) for i, w in start.items()}
    total = sum(raised.values())
    return {i: r / total * sum(start.values()) for i, r in raised.items()}


def _helped(source: str, edges: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {source: 1.0, **edges.get(source, {})}


class SkillIt(Method):
    """Shares of the sources by the losses of what they help."""

    edges: dict[str, dict[str, float]] = Field(
        default_factory=dict,
        description="source -> source that it helps -> by how much; a source helps itself by 1 unless written",
        examples=[{"small": {"large": 1.0}}],
    )
    eta: PositiveFloat = Field(0.1, description="how strongly losses move the shares", examples=[0.8])
    update_steps: PositiveInt = Field(20, description="optimizer steps between two looks at the losses", examples=[1])
    window: PositiveInt = Field(3, description="looks whose losses are summed", examples=[1])
    rows: PositiveInt = Field(64, description="validation rows of each source that are looked at", examples=[1])

    papers: ClassVar[tuple[str, ...]] = ("skill-it",)
    conformance: ClassVar[dict[str, object]] = {"update_steps": 2, "eta": 0.5, "edges": {"small": {"validation": 1.0}}}

    def setup(self, run: Setup) -> State:
        sources = set(run.plan.sources) - set(run.plan.replay)
        if len(sources) < 2:
            raise MethodError(
                f"'skill-it' shares tokens out among sources, and there is only {sorted(sources)}",
                where="data.train",
                remedy="name more: data: {train: [counting.jsonl, adding.jsonl]}",
            )
        for name in self.edges:
            if name not in sources:
                raise MethodError(f"no source is called '{name}'", where="edges", remedy=did_you_mean(name, sources))
        known = {*sources, *run.plan.measured}
        for name in dict.fromkeys(j for helped in self.edges.values() for j in helped):
            if run.plan.measured and name not in known:  # where nothing is said of what is measured, any may be there
                raise MethodError(
                    f"no skill is called '{name}': neither a source nor rows of data.validation",
                    where="edges",
                    remedy=did_you_mean(name, known),
                )
        if any(a < 0 or not math.isfinite(a) for helped in self.edges.values() for a in helped.values()):
            raise MethodError("an edge is no number of 0 or more", where="edges", remedy="write {adding: 0.5}")
        return State(losses=[], start=None)

    def caution(self, plan: Plan) -> str | None:
        if self.update_steps < plan.steps:
            return None
        return f"the shares are set once: {plan.steps} steps end before the next look, after {self.update_steps}"

    def mixture(
        self, weights: Mapping[str, float], validation: Any, step: int, plan: Plan, state: State
    ) -> dict[str, float] | None:
        if step % self.update_steps:
            return None
        if state.data["start"] is None:
            state.data["start"] = {n: w for n, w in weights.items() if n not in plan.replay}
        state.data["losses"] = [*state.data["losses"], validation.losses(self.rows)][-self.window :]
        summed = {j: sum(look[j] for look in state.data["losses"]) for j in state.data["losses"][-1]}
        kept = {n: w for n, w in weights.items() if n in plan.replay}
        return {**kept, **mirrored(state.data["start"], self.edges, summed, self.eta)}
