"""UNIC: one student for several teachers (Sariyildiz et al. 2024, arXiv:2408.05088; papers: unic).

Frozen teachers with different strengths teach the student the features of their last layers. For teacher k with states
t_k [N, Dk] at the places that `states_at` takes (each position that predicts a target; where a task has one target a
row, the row's mean over its real tokens), each feature brought to mean 0 and variance 1, and student states s_l [N, D]
of layers l:

    ladder      p_k = sum_l MLP_kl(s_l),  MLP: Linear, GELU, Linear, of its own for each teacher and layer loss
    L_rk = mean over the row's places of  a (1 - cos(p_k, t_k)) + (1 - a) mean_d smooth_l1(p_kd - t_kd)     no unit
    dropping    c_rk = 1 for the teacher with the largest L_rk of row r, and 0 with probability q, else 1, for the
    others row r       sum_k c_rk L_rk / (1 + (K - 1)(1 - q))

so that no teacher that is easily matched takes the training over. With one teacher none is dropped. The loss reads no
label. Ladders train with the student and are dropped afterwards: the tuned model has the student's shape and nothing
else.

Raises MethodError for a teacher that the recipe does not name or that is named twice, or one with another tokenizer,
and beside an objective that couples the whole batch.

Differs from the paper in: rows are divided by the number of teachers expected to stay, not by how many did in the
batch, so that splitting a batch changes nothing; statistics of features are taken once, from the first `rows` training
rows, not as a moving average; there is no second ladder for patches beside that of the class token: places are one
kind. Checked against the authors' code: the loss, the dropping, the ladder's shape and start (normal, 0.02, cut at 2;
biases 0).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt, field_validator
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Need, Needs, Setup, State, torch_generator
from tunewright.methods.needs.feature_statistics import FeatureStatistics
from tunewright.methods.needs.hidden_states import HiddenStates
from tunewright.methods.needs.hidden_widths import HiddenWidths
from tunewright.methods.needs.teachers_states import TeachersStates
from tunewright.pieces.features import feature_loss, states_at
from tunewright.pieces.means import row_means
from tunewright.pieces.seeded import normal_linear

DRAWS = "unic_draws"


def kept_teachers(losses: Tensor, draws: Tensor, drop: float) -> Tensor:
    """[R, K] 1 where a teacher counts: the one with the largest of losses [R, K], and those whose draw [R, K] in
    0..1 is at least `drop`.
    """
    kept = (draws >= drop).to(losses.dtype)
    return kept.scatter(1, losses.detach().argmax(1, keepdim=True), 1.0)


def ladder(widths: Sequence[int], outputs: int, hidden: Sequence[int], generator: torch.Generator) -> nn.ModuleList:
    """An MLP for each layer of `widths`, to `outputs` features through `hidden` ones; weights normal (0.02, cut at
    2), biases 0.
    """
    projectors = nn.ModuleList()
    for width, inside in zip(widths, hidden, strict=True):
        first, second = normal_linear(width, inside, generator), normal_linear(inside, outputs, generator)
        projectors.append(nn.Sequential(first, nn.GELU(), second))
    return projectors


class Unic(Method):
    """Learn the features of several frozen teachers at once, through ladders of projectors that are dropped
    afterwards.
    """

    teachers: tuple[str, ...] = Field(
        ("teacher",),
        min_length=1,
        description="which of the recipe's `models` teach",
        examples=[("teacher",), ("teacher", "other")],
    )
    drop: float = Field(
        0.5,
        ge=0,
        le=1,
        description="q, probability that a row drops a teacher whose loss is not its largest",
        examples=[0.0],
    )
    ladder: Literal["all", "last"] = Field(
        "all", description="which of the student's layers the projectors read", examples=["last"]
    )
    hidden: PositiveInt | None = Field(
        None, description="width inside the projectors of inner layers; none: the layer's own", examples=[8]
    )
    last_hidden: PositiveInt | None = Field(
        None, description="width inside the last layer's projector; none: four times the layer's own", examples=[8]
    )
    cosine: float = Field(
        0.5, ge=0, le=1, description="a: share of the cosine loss; the rest is smooth L1", examples=[1.0]
    )
    standardize: bool = Field(
        True, description="bring each feature of a teacher to mean 0 and variance 1", examples=[False]
    )
    rows: PositiveInt = Field(
        256, description="training rows that the features' statistics are taken from", examples=[2]
    )
    weight: PositiveFloat = Field(1.0, description="weight of this objective in the sum", examples=[0.5])

    couples: ClassVar[Literal["token", "row", "batch"]] = "row"
    ranks: ClassVar[bool] = False
    papers: ClassVar[tuple[str, ...]] = ("unic",)
    conformance: ClassVar[dict[str, object]] = {"teachers": ("teacher", "other")}

    @field_validator("teachers")
    @classmethod
    def _each_once(cls, teachers: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(teachers)) != len(teachers):
            raise ValueError(f"a teacher is named twice: {', '.join(teachers)}")
        return teachers

    def needs(self) -> Sequence[Need]:
        read = (HiddenStates(), HiddenWidths(models=("", *self.teachers)), TeachersStates(models=self.teachers))
        return (*read, FeatureStatistics(models=self.teachers, rows=self.rows)) if self.standardize else read

    def setup(self, run: Setup) -> State:
        state: Any = State()
        state.ladders = nn.ModuleList()
        return state

    def begin_task(self, needs: Needs, state: Any, rng: random.Random) -> None:
        if len(state.ladders):
            return
        mine, generator = needs.hidden_widths[""], torch_generator(rng)
        state.data["layers"] = list(range(1, len(mine)))[0 if self.ladder == "all" else -1 :]
        widths = [mine[layer] for layer in state.data["layers"]]
        hidden = [self.hidden or w for w in widths[:-1]] + [self.last_hidden or 4 * widths[-1]]
        for name in self.teachers:
            state.ladders.append(ladder(widths, needs.hidden_widths[name][-1], hidden, generator))

    def batch(self, batch: Batch, row_rng: Callable[[int], random.Random]) -> Batch | None:
        """One draw a row and teacher goes with the batch."""
        if len(self.teachers) == 1 or not self.drop:
            return None
        draws = [[rng.random() for _ in self.teachers] for rng in map(row_rng, range(len(batch.row_ids)))]
        return batch.replace(fields={**batch.fields, DRAWS: torch.tensor(draws)})

    def objective(self, outputs: Outputs, batch: Batch, needs: Needs, state: Any) -> Loss:
        own = [states_at(outputs, batch, layer).float() for layer in state.data["layers"]]
        each = []
        for name, projectors, states in zip(self.teachers, state.ladders, needs.teachers_states, strict=True):
            goal = states.float()
            if self.standardize:
                mean, deviation = needs.feature_statistics[name]
                goal = (goal - mean) / deviation.clamp_min(1e-6)
            prediction = torch.stack([p(s) for p, s in zip(projectors, own, strict=True)]).sum(0)
            each.append(row_means(feature_loss(prediction, goal, self.cosine), batch.rows, len(batch.row_ids)))
        losses = torch.stack(each, 1)
        kept = (
            kept_teachers(losses, batch.fields[DRAWS], self.drop) if DRAWS in batch.fields else torch.ones_like(losses)
        )
        expected = 1 + (len(self.teachers) - 1) * (1 - self.drop)
        logs = {f"loss_{name}": losses[:, k].detach() for k, name in enumerate(self.teachers)}
        return Loss((kept * losses).sum(1) / expected, logs=logs)
