"""Self-training as pre-training: a tuned model labels a large pool, and what learns from these labels meets the labels
made by hand afterwards (Tong Guo 2020; papers: self-training-as-pre-training).

Each record gets the class of highest probability under the model, c = argmax_k p(k | x), as its label, and p(c | x) as
a column `confidence`, which the selector `threshold` filters by. Labels that the pool had are not looked at. The
paper's method is a recipe of three stages, of which this makes the rows of the second:

    stages:
      - {name: teacher, methods: [full]}                                   # the labels made by hand
      - name: pool
        start: base
        data: {train: pool.jsonl, synthesize: [{self-training: {model: stages.teacher}}],
               select: [{threshold: {least: 0.9}}]}
        methods: [full]
      - {name: task, start: stages.pool, methods: [full]}                  # the labels made by hand, again

Differs from the paper in: nothing is filtered unless `threshold` is named (the paper's abstract names no filter); what
the second stage starts from is yours (`start: base`, or the teacher). Written after the abstract.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tunewright.contract.batch import Batch, Outputs
from tunewright.contract.made import Made
from tunewright.contract.method import Method
from tunewright.contract.reader import Reader, Reading
from tunewright.contract.records import Record


def probabilities(outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
    """([R, V] probabilities of the classes, [R] ones) of each row."""
    found = torch.softmax(outputs.logits.float(), -1)
    return found, torch.ones(len(found))


PROBABILITIES = Reading("probabilities of the classes", probabilities)


class SelfTraining(Method):
    """Labels records with a model's own most likely class."""

    model: str = Field(
        "previous",
        description="what labels: previous (what the stage before made), start, stages.NAME, or one of the recipe's "
        "`models`",
        examples=["start"],
    )

    tasks: ClassVar[tuple[str, ...] | None] = ("text-classification",)
    papers: ClassVar[tuple[str, ...]] = ("self-training-as-pre-training",)

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def stand_in(self, record: Record, labels: Sequence[str] | None) -> Record:
        return record.replace(label=labels[0]) if labels else record

    def synthesize(
        self, records: Sequence[Record], readers: dict[str, Reader], labels: tuple[str, ...] | None
    ) -> list[Made]:
        assert labels is not None
        best = readers[self.model].read(records, PROBABILITIES).max(1)
        return [
            Made({**r, "label": labels[k], "confidence": p}, r, scores={"confidence": p})
            for r, k, p in zip(records, best.indices.tolist(), best.values.tolist(), strict=True)
        ]
