"""teachers_states: what several other models of the recipe make of a micro-batch, at one layer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need
from tunewright.methods.needs.teacher_hidden_states import TeacherHiddenStates


class TeachersStates(Need):
    """A tuple of [N, D], one per model asked for, as `TeacherHiddenStates` gives them of one teacher.

    MethodError when the stage is checked for a model that is missing or has another tokenizer.
    """

    name: ClassVar[str] = "teachers_states"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "batch"

    models: tuple[str, ...] = Field(description="which of the recipe's `models`")
    layer: int = Field(-1, description="layer to read; 0: embeddings, negative: from the end")

    def check(self, run: Any) -> None:
        for name in self.models:
            run.model(name)

    def compute(self, run: Any, batch: Batch | None = None) -> tuple[Tensor, ...]:
        return tuple(
            TeacherHiddenStates(model=name, layers=(self.layer,)).compute(run, batch)[0] for name in self.models
        )
