"""teacher_hidden_states: what another model of the recipe makes of a micro-batch, layer by layer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tunewright.contract.batch import Batch, Outputs
from tunewright.contract.method import Need
from tunewright.errors import MethodError


def states_at(outputs: Outputs, batch: Batch, layer: int) -> Tensor:
    """[N, D] of one layer (0: embeddings, negative: from the end): at the positions that predict targets, N = S; where
    a task has one target a row, each row's mean over its real tokens, N = R. MethodError when states were not kept."""
    if outputs.hidden is None:
        raise MethodError(
            "the hidden states were not kept",
            remedy="an objective on hidden states cannot stand beside one that couples the whole batch",
        )
    states = outputs.hidden[layer]
    if batch.positions is not None:
        return states.flatten(0, 1)[batch.positions]
    states = states.flatten(2).transpose(1, 2) if states.dim() == 4 else states  # a convolution's channels first
    mask = batch.inputs.get("attention_mask")
    if mask is None:
        return states.mean(1)
    real = mask[..., None].to(states.dtype)
    return (states * real).sum(1) / real.sum(1)


class TeacherHiddenStates(Need):
    """A tuple of [N, D] a layer asked for: the frozen teacher's states where `states_at` takes the student's.

    The teacher is loaded when the stage is checked: one that is missing, or that has another tokenizer, is refused
    before training. It answers in eval mode, without gradient, and never trains.
    """

    name: ClassVar[str] = "teacher_hidden_states"
    when: ClassVar[Literal["stage", "batch", "redraw"]] = "batch"

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
