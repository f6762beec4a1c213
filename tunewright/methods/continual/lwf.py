"""LwF: learning without forgetting, a new task's rows are also to be answered as the old model answers them (Li & Hoiem
2016, arXiv:1606.09282; papers: lwf). No row of an earlier task is kept.

    loss of a target = -log p(y) + lambda KL(softmax(z_old / T) || softmax(z / T))                           [nats]

z_old are the logits of the model as the stage began (`reference: start`, a copy of what trains) or of the untouched
base (`base`), of the very same row, without dropout. The divergence has the gradient of the paper's cross-entropy of
the two (modified) distributions.

Of a classifier p is over the classes of the stage's own rows, as the paper's new head is, and the divergence over those
of earlier stages that had `lwf`: in the first stage there are none and nothing is distilled. A row whose class is not
the stage's own, such as `er` brings, is read over all classes so far. Where a target has no classes of tasks (text
generation) both are over the whole vocabulary, in the first stage too: there the old model is the base.

Defaults: lambda 1 and T 2 (the paper's). Source of the formula: the paper's equations 1 to 3.
Differs from the paper in: the head has a row for every class from the start, and no phase in which it trains alone;
old answers are computed at each step (the paper: once, before training), so that rows may be drawn and changed anew.
Cost: a forward more a step, and a copy of what trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Need, Needs, Setup, State
from tunewright.methods.needs.row_labels import RowLabels
from tunewright.pieces.divergence import divergence

NAME = "lwf"


def own_log_probs(logits: Tensor, labels: Tensor, own: Sequence[int], seen: Sequence[int]) -> Tensor:
    """[R] log-probability of each row's class among the stage's `own`, or among all `seen` where it is none of them."""
    among = torch.zeros(2, logits.shape[1], dtype=torch.bool, device=logits.device)
    among[0, list(own)] = True
    among[1, list({*own, *seen})] = True
    masks = among[(~among[0, labels]).long()]
    return logits.float().masked_fill(~masks, -torch.inf).log_softmax(-1).gather(-1, labels[:, None])[:, 0]


class LwF(Method):
    """Learn a new task's rows while answering them as the old model does."""

    coefficient: NonNegativeFloat = Field(
        1.0, description="lambda, weight of the divergence from the old answers", examples=[3.0]
    )
    temperature: PositiveFloat = Field(2.0, description="T, what logits are divided by before they are compared")
    reference: Literal["start", "base"] = Field(
        "start", description="the old model: as the stage began (what trains is then copied), or the untouched base"
    )
    weight: PositiveFloat = Field(1.0, description="weight of this objective in the sum", examples=[0.5])

    leaves: ClassVar[tuple[str, ...]] = ("classes",)
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    tasks: ClassVar[tuple[str, ...] | None] = (
        "text-generation",
        "text2text-generation",
        "text-classification",
        "image-classification",
        "audio-classification",
    )
    conformance_stages: ClassVar[int] = 2

    def needs(self) -> Sequence[Need]:
        return (RowLabels(some=True),)

    def setup(self, run: Setup) -> State:
        before = run.earlier.inherited(NAME)
        return State(old=list(before.values["classes"]) if before else [], classes=[], own=[])

    def begin_task(self, needs: Needs, state: State) -> None:
        state.data |= {"own": needs.row_labels, "classes": sorted({*state.data["old"], *needs.row_labels})}

    def objective(self, outputs: Outputs, batch: Batch, forward: Callable[..., Outputs], state: State) -> Loss:
        old, own = state.data["old"], state.data["own"]
        said = own_log_probs(outputs.logits, batch.labels, own, old) if own else outputs.log_probs()
        if own and not old:
            return Loss(-said)
        teacher = forward(batch, base=self.reference == "base", start=self.reference == "start", grad=False).logits
        student = outputs.logits
        if own:
            teacher, student = teacher[:, old], student[:, old]
        apart = divergence(teacher, student, self.temperature)
        return Loss(self.coefficient * apart - said, logs={"apart": apart})
