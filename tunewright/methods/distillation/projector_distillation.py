"""Distillation of one teacher's features through projectors, layer by layer; the loss is UNIC's (Sariyildiz et al.
2024, arXiv:2408.05088).

For each pair of layers (student's, teacher's), with student states s [N, Ds] and a teacher's t [N, Dt] at the same
places (each position that predicts a target; where a task has one target a row, the row's mean over real tokens), a
projector P of the method's own and features laid out alike, the loss of a place is

    loss = a (1 - cos(P(s), t)) + (1 - a) mean_d smooth_l1(P(s)_d - t_d)

and pairs are averaged. P is linear, or Linear-GELU-Linear where `hidden` gives a width; where widths agree a linear P
starts as the identity, so that a student equal to its teacher has loss 0.

The teacher is frozen and answers in eval mode. Projectors train with the student and are dropped afterwards: nothing of
them is in the tuned model. A teacher with another tokenizer is refused before training.

For several teachers, their features standardised and dropped at random, and a ladder over all layers, there is `unic`.
The task's own loss is not added: name an objective beside it for that.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Need, Needs, Setup, State, torch_generator
from tunewright.errors import MethodError
from tunewright.methods.needs.hidden_states import HiddenStates
from tunewright.methods.needs.hidden_widths import HiddenWidths
from tunewright.methods.needs.teacher_hidden_states import TeacherHiddenStates
from tunewright.pieces.features import feature_loss, states_at
from tunewright.pieces.seeded import uniform_linear


def projector(inputs: int, outputs: int, hidden: int | None, rng: random.Random) -> nn.Module:
    """Linear (the identity where widths agree) or Linear-GELU-Linear; else torch's usual start, drawn from `rng`."""
    widths = [inputs, outputs] if hidden is None else [inputs, hidden, outputs]
    generator, layers = torch_generator(rng), list[nn.Module]()
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [uniform_linear(a, b, generator), nn.GELU()]
    if hidden is None and inputs == outputs:
        first: Any = layers[0]
        nn.init.eye_(first.weight), nn.init.zeros_(first.bias)
    return nn.Sequential(*layers[:-1])


class ProjectorDistillation(Method):
    """Make hidden states, through projectors that are dropped afterwards, like those of a teacher."""

    teacher: str = Field("teacher", description="which of the recipe's `models` teaches", examples=["other"])
    layers: tuple[tuple[int, int], ...] = Field(
        ((-1, -1),),
        min_length=1,
        description="pairs of a layer here and the teacher's; 0: embeddings, negative: from the end",
        examples=[((1, 2),)],
    )
    cosine: float = Field(
        0.5, ge=0, le=1, description="a: share of the cosine loss; the rest is smooth L1", examples=[1.0]
    )
    hidden: PositiveInt | None = Field(
        None, description="width inside the projectors; none: linear ones", examples=[16]
    )
    weight: PositiveFloat = Field(1.0, description="weight of this objective in the sum", examples=[0.5])

    def needs(self) -> Sequence[Need]:
        read = TeacherHiddenStates(model=self.teacher, layers=tuple(t for _, t in self.layers))
        return (HiddenStates(), HiddenWidths(models=("", self.teacher)), read)

    def setup(self, run: Setup) -> State:
        state: Any = State()
        state.projectors = nn.ModuleList()
        return state

    def begin_task(self, needs: Needs, state: Any, rng: random.Random) -> None:
        if len(state.projectors):
            return
        mine, theirs = (needs.hidden_widths[name] for name in ("", self.teacher))
        for s, t in self.layers:
            state.projectors.append(
                projector(_width(mine, s, "the model"), _width(theirs, t, f"'{self.teacher}'"), self.hidden, rng)
            )

    def objective(self, outputs: Outputs, batch: Batch, needs: Needs, state: Any) -> Loss:
        losses = [
            feature_loss(project(states_at(outputs, batch, s).float()), t, self.cosine)
            for project, (s, _), t in zip(state.projectors, self.layers, needs.teacher_hidden_states, strict=True)
        ]
        return Loss(torch.stack(losses).mean(0))


def _width(widths: tuple[int, ...], layer: int, whose: str) -> int:
    if not -len(widths) <= layer < len(widths):
        raise MethodError(
            f"{whose} has no layer {layer}",
            where="projector-distillation.layers",
            remedy=f"its states are numbered 0 to {len(widths) - 1}",
        )
    return widths[layer]
