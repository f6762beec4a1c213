"""Self-distillation for further pre-training: begin again, near what plain further training made (Lee et al. 2022,
arXiv:2210.02871).

    stage 1    theta_1 = theta_0 trained on the target's own rows with the loss of a target, -log p(y)
    stage 2    theta_2 = theta_0 trained on the same rows with -log p(y) + distance mean_d (h(theta)_d - h(theta_1)_d)^2
    stage 3    theta_2 tuned on the labelled rows, without this method

h [N, D] are one layer's hidden states where a target is predicted (a row's mean where it has one target). The teacher
theta_1 gives no gradient and has no dropout; it is the same model with its weights lent for the while.

Named in two stages that begin alike: in the first there is no teacher yet, and it is the plain loss; it leaves what
trained. In the next the teacher is what the stage before it left, so that a third stage is another round.
A recipe of all three stages is `recipes/self-distilled-pretraining.yaml`. The same parameters must train in each.
Costs a copy of what trains, and a forward a step.

Defaults: distance 1.0 (ours), the last layer.
Differs from the paper in: reconstructed from the abstract and our summary. Places at which nothing is predicted have no
distance; any task's loss stands where the paper has masked auto-encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Need, Setup, State
from tunewright.methods.needs.hidden_states import HiddenStates
from tunewright.models.adapted import Adapted
from tunewright.pieces.features import states_at


def apart(student: Tensor, teacher: Tensor) -> Tensor:
    """[N]: mean squared difference of hidden states [N, D]; no gradient reaches the teacher."""
    return (student.float() - teacher.detach().float()).square().mean(-1)


class SelfDistilledPretraining(Method):
    """Train again from the same weights, with hidden states near those that the stage before ended with."""

    distance: NonNegativeFloat = Field(
        1.0, description="weight of the distance to the teacher's hidden states", examples=[5.0]
    )
    layer: int = Field(
        -1, description="layer whose states are held; 0: embeddings, negative: from the end", examples=[0]
    )
    weight: PositiveFloat = Field(1.0, description="weight of this objective in the sum", examples=[0.5])

    leaves: ClassVar[tuple[str, ...]] = ("weights",)
    papers: ClassVar[tuple[str, ...]] = ("self-distilled-pretraining",)
    conformance_stages: ClassVar[int] = 2

    def needs(self) -> Sequence[Need]:
        return (HiddenStates(),)

    def setup(self, run: Setup) -> State:
        state, left = State(), run.earlier.latest("self-distilled-pretraining")
        for name, value in (left.values["weights"] if left else {}).items():
            state.set_buffer(f"teacher.{name}", value)
        return state

    def objective(self, outputs: Outputs, batch: Batch, forward: Callable[..., Outputs], state: State) -> Loss:
        held = {n.replace("/", "."): t for n, t in state.named_buffers()}
        teacher = {n.removeprefix("teacher."): t for n, t in held.items() if n.startswith("teacher.")}
        loss = -outputs.log_probs()
        if not teacher:
            return Loss(loss)
        told = forward(batch, weights=teacher, grad=False, dropout=False, hidden=True)
        gap = apart(states_at(outputs, batch, self.layer), states_at(told, batch, self.layer))
        return Loss(loss + self.distance * gap, logs={"apart": gap})

    def end_task(self, adapted: Adapted, state: State) -> None:
        values = {n: p for n, p in adapted.base_parameters().items() if n in adapted.originals}
        for name, p in {**values, **adapted.trainable_deltas()}.items():
            state.set_buffer(f"weights.{name}", torch.clone(p.detach()))
