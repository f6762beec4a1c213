"""Mean teacher: agree with a slowly moving copy of oneself (Tarvainen, Valpola 2017, arXiv:1703.01780).

    theta' <- m theta' + (1 - m) theta   after every step, over what trains;   m = min(decay, 1 - 1 / (t + 1))
    loss of a target = -log p(y) + consistency KL(p_theta'(. | x) || p_theta(. | x))

The teacher theta' sees the same rows under another dropout and gives no gradient; p over the vocabulary or the classes,
[S, V]. It is the model itself with its averaged weights lent for the while: no second copy of the frozen base is held.
While the first steps are few the average forgets fast, so that the teacher is not the untrained start.

Defaults: decay 0.999 (the paper's, after its ramp-up) and consistency 1.0 (ours: the paper ramps its weight up to 100
for a squared distance of probabilities).
Differs from the paper in: labelled rows alone; KL in place of the squared distance; the rows are not augmented.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method
from tunewright.contract.state import COPY, State
from tunewright.pieces.divergence import divergence


class MeanTeacher(Method):
    """Cross-entropy, and agreement with an average of one's own weights."""

    decay: float = Field(0.999, ge=0, lt=1, description="share of itself that the teacher keeps a step", examples=[0.5])
    consistency: NonNegativeFloat = Field(1.0, description="weight of the agreement", examples=[0.3])
    weight: PositiveFloat = Field(1.0, description="weight of this objective in the sum", examples=[0.5])

    def objective(self, outputs: Outputs, batch: Batch, forward: Callable[..., Outputs], state: State) -> Loss:
        held = state.copies()
        teacher = forward(batch, weights=held, grad=False).logits
        apart = divergence(teacher, outputs.logits)
        return Loss(-outputs.log_probs() + self.consistency * apart, logs={"apart": apart})

    def after_step(self, parameters: Mapping[str, Tensor], step: int, state: State) -> None:
        keep = min(self.decay, 1 - 1 / (step + 1))
        copies = state.copies()
        for name, value in parameters.items():
            before = copies.get(name)
            now = value.detach().clone() if before is None else before.lerp(value.detach(), 1 - keep)
            state.set_buffer(COPY + name, now)
