"""teacher_hidden_states: what another model of the recipe makes of a micro-batch, layer by layer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need
from tunewright.pieces.features import states_at


class TeacherHiddenStates(Need):
    """A tuple of [N, D] a layer asked for: the frozen teacher's states where `states_at` takes the student's.

    The teacher is loaded when the stage is checked: one that is missing, or that has another tokenizer, is refused
    before training. It answers in eval mode, without gradient, and never trains.
    """

    name: ClassVar[str] = "teacher_hidden_states"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "batch"

    model: str = Field("teacher", description="which of the recipe's `models`")
    layers: tuple[int, ...] = Field((-1,), description="layers to read; 0: embeddings, negative: from the end")

    def check(self, run: Any) -> None:
        run.model(self.model)

    def compute(self, run: Any, batch: Batch | None = None) -> tuple[Tensor, ...]:
        assert batch is not None
        teacher = run.model(self.model)
        with teacher.evaluating() as model, torch.no_grad():
            outputs = run.task.forward(model, batch, hidden=True)
        return tuple(states_at(outputs, batch, layer).detach() for layer in self.layers)
