"""DER and DER++: dark experience replay, what the model once said of kept rows is matched (Buzzega et al. 2020,
arXiv:2004.07211; papers: der).

    loss = L(B) + alpha mean (z(x) - z_x)^2 over x of M1 + beta L(M2);   M1, M2: `minibatch_size` kept rows, drawn apart

B are the step's rows, L the stage's loss (its objectives, or the task's), z(x) [V] the logits of a target (of a class,
or of each token that is trained), z_x those that the model gave of it before the step in which it was kept; the mean is
over targets and over V. `beta: 0` is DER, above it DER++. A row is kept with its logits by reservoir sampling (or
balanced by class: `keep`); rows and logits go on into later stages that have `der`, and are counted in a report.

Memory: V numbers (fp32) for each trained target of a kept row. A class costs little; a token costs the vocabulary: 40
tokens of 49,152 are 7.9 MB a row.

Defaults: alpha 0.3 (the authors' for CIFAR-10 with 500 rows); as many rows as the step has.
Differs from the paper in: logits are read without dropout, in a forward of those rows alone that enter the buffer (the
authors: those of the training step itself); loss and logits are of targets, so that a task may have several a row.
Source of the formula: the paper, and aimagelab/mammoth, models/derpp.py. Raises MethodError where another method
changes rows, so that a kept row has other targets than its logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import State
from tunewright.errors import MethodError
from tunewright.pieces.rehearsal import LEAVES, Buffer, RehearsalMethod
from tunewright.training.inner import Inner, Reading

NAME, LOGITS = "der", "logits"


def logits_of(inner: Inner, places: Sequence[int]) -> dict[int, Tensor]:
    """[S, V] of each of the step's rows at `places`, by the model as it is, without dropout."""
    found: list[Tensor] = []
    with inner.reading() as read:
        for batch in inner.batches(places):
            said = read(batch).logits.float()
            found += [said[batch.rows == i] for i in range(len(batch.row_ids))]
    return dict(zip(places, found, strict=True))


def apart(outputs: Outputs, batch: Batch, kept: Sequence[Tensor]) -> Tensor:
    """[S] mean squared difference of each target's logits to those that were `kept` [S of the row, V] of its row."""
    said = outputs.logits.float()
    wanted = torch.empty_like(said)
    for i, logits in enumerate(kept):
        own = batch.rows == i
        if int(own.sum()) != len(logits):
            raise MethodError(
                f"'{NAME}' kept logits of {len(logits)} targets of a row that now has {int(own.sum())}",
                where=batch.row_ids[i],
                remedy="take out the method that changes rows (it fills the slot `row` or `batch`)",
            )
        wanted[own] = logits.to(said.device)
    return (said - wanted).square().mean(-1)


class DER(RehearsalMethod):
    """Match the logits that kept rows had, and train on kept rows."""

    alpha: NonNegativeFloat = Field(0.3, description="weight of the logits' mean squared difference", examples=[3.0])
    beta: NonNegativeFloat = Field(0.0, description="weight of the loss on kept rows; 0: DER, else DER++")
    minibatch_size: PositiveInt | None = Field(
        None, description="kept rows a step for each term; left out: as many as the step has rows", examples=[1]
    )

    leaves: ClassVar[tuple[str, ...]] = (*LEAVES, LOGITS)
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    tasks: ClassVar[tuple[str, ...] | None] = (
        "text-generation",
        "text2text-generation",
        "text-classification",
        "token-classification",
        "image-classification",
        "audio-classification",
    )
    conformance: ClassVar[dict[str, object]] = {"buffer_size": 5}
    conformance_stages: ClassVar[int] = 2
    _name: ClassVar[str] = NAME
    _others: ClassVar[tuple[str, ...]] = (LOGITS,)

    def step(self, inner: Inner, step: int, state: State) -> None:
        buffer, count = self._buffer(state), self.minibatch_size or len(inner.rows)
        total = inner.gradients()
        for weight, term in ((self.alpha, "logits"), (self.beta, "labels")):
            slots = buffer.draw(count, step, term) if weight else []
            if slots:
                rows = [buffer.row(s) for s in slots]
                matching = _matching(buffer, slots) if term == "logits" else None
                found, loss = inner.gradients_of(rows, matching)
                total = {n: g + weight * found[n] if n in found else g for n, g in total.items()}
                inner.record |= {f"{term}/{NAME}": loss, "loss": inner.record["loss"] + weight * loss}
        inner.leave(total)
        admitted = buffer.admitted(inner.rows)
        buffer.hold(admitted, inner.rows, logits=logits_of(inner, sorted(set(admitted.kept.values()))))


def _matching(buffer: Buffer, slots: Sequence[int]) -> Reading:
    def loss(outputs: Outputs, batch: Batch, places: Sequence[int]) -> Loss:
        return Loss(apart(outputs, batch, [buffer.other(LOGITS, slots[i]) for i in places]))

    return loss
