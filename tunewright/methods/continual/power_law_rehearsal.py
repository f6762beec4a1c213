"""Power-law rehearsal: kept rows of earlier stages come back, the less the longer ago their stage was (Gandhi et al.
2024, arXiv:2401.10393; papers: power-law-rehearsal).

    theta <- step on B u M;    M: `minibatch_size` kept rows, each of stage s with P(s) ~ age(s)^-exponent

B are the step's rows, and the loss is one mean over both. age(s) is 1 for the stage just before the present one, 2 for
the one before that; a row is any of its stage's that are kept, and none is drawn twice in a step (a stage whose rows
are used up drops out, and the others' shares grow). This is the law by which people meet a task again: the chance
falls as a power of the time since they last did it (Anderson & Schooler 1991). `exponent: 0` is its control, all
earlier stages alike; a large one rehearses the last stage alone. Rows of the present stage are never drawn, and the
first stage is plain training.

The law is one of stages and not of rows: a stage of which the buffer kept few rows shows these more often. Which rows
are kept, `keep`, and how they go on into later stages: pieces/rehearsal.py, as `er` does. Any task and any objective.

Source: the paper's abstract and a summary; its text was not at hand. Defaults: exponent 1, as many rows as the step
has, 500 rows kept: ours. Differs from the paper in: it rehearses after each task; here kept rows stand beside each
step's own, so that these are half of what it trains on. Time is counted in stages, whatever their length, and being
rehearsed makes no stage younger: both ours. Raises MethodError where the buffer is smaller than what an earlier stage
left.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, NonNegativeFloat, PositiveInt

from tunewright.contract.method import Setup, State
from tunewright.pieces.rehearsal import LEAVES, RehearsalMethod
from tunewright.training.inner import Inner

NAME, STAGES = "power-law-rehearsal", "stages"


class PowerLawRehearsal(RehearsalMethod):
    """Train on kept rows of earlier stages beside each step's own, drawn by a power of the stages' age."""

    exponent: NonNegativeFloat = Field(
        1.0, description="how fast a stage's chance falls with its age; 0: all stages alike", examples=[8.0, 0.0]
    )
    minibatch_size: PositiveInt | None = Field(
        None, description="kept rows a step; left out: as many as the step has rows", examples=[1]
    )

    leaves: ClassVar[tuple[str, ...]] = (*LEAVES, STAGES)
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"buffer_size": 12}
    conformance_stages: ClassVar[int] = 3
    _name: ClassVar[str] = NAME

    def setup(self, run: Setup) -> State:
        state, before = super().setup(run), run.earlier.latest(NAME)
        state.data[STAGES] = [*(before.values[STAGES] if before is not None else []), run.plan.stage]
        return state

    def step(self, inner: Inner, step: int, state: State) -> None:
        buffer, stages = self._buffer(state), state.data[STAGES]
        weights = {stage: (len(stages) - 1 - i) ** -self.exponent for i, stage in enumerate(stages[:-1])}
        drawn = buffer.draw_by_stage(self.minibatch_size or len(inner.rows), step, weights)
        inner.gradients(also=[buffer.row(slot) for slot in drawn])
        buffer.add(inner.rows)
