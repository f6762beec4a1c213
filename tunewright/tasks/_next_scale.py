"""Pictures that are drawn map by map, from coarse to fine: the loss, what is noted of each scale, drawn pictures.

A picture's codes are those of the model's frozen autoencoder (`models.next_scale`), worked out anew with each forward:
a row holds pixels. The loss is the mean cross-entropy of its codes over all scales, each code counting alike, with the
true coarser maps before it (teacher forcing), as FoundationVision/VAR's trainer.py has it at 78b9539 (`loss_weight`;
no label smoothing, its default).
Differs in: texts are never left out in training (there a class is in one of ten rows), so that what a text brings under
guidance is the base's.

Shapes: R rows, L codes of a picture, V codes, S = R L codes of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.task import Task
from tunewright.models import context
from tunewright.models.next_scale import Coded, Sampling
from tunewright.tasks._parts import OF_CODES

UNIT = "nats per code"
FIELDS = ("length",)
"""What a row's fields say of the model."""
NOTE = "scale"
"""What a note of a row's loss at a scale is called, before the scale's side."""


def options_for(config: Any) -> dict[str, Any]:
    """What `EncodeOptions.image` says of a model beside its pictures."""
    return {"length": config.length}


def run(model: Any, batch: Batch, hidden: bool) -> tuple[Any, context.Present | None]:
    """What the model says of a batch (`models.next_scale.Coded`); where it is measured, each row's loss by scale is
    noted.
    """
    said: Coded = model(**batch.inputs, output_hidden_states=hidden)
    if torch.is_grad_enabled():
        return said, None
    noted = context.Present(context.Rows())
    sides = model.config.scales
    for side, part in zip(sides, said.by_code(said.logits).split([s * s for s in sides], 1), strict=True):
        noted.note(f"{NOTE} {side}", part.mean(1))
    return said, noted


def start(row: Row, rng: np.random.Generator) -> Any:
    """The draws [L] in [0, 1) that a row's codes are taken by."""
    return rng.random(int(row.fields["length"]), dtype=np.float32)


def draw(model: Any, uniform: Tensor, ids: Tensor | None, how: Mapping[str, Any], row: Row) -> Tensor:
    """uint8 pictures [R, c, H, W] by draws [R, L], of texts [R, T]."""
    wanted = {name: how[name] for name in ("guidance_scale", *OF_CODES)}
    pictures: Tensor = model.draw(uniform, ids, Sampling(**wanted))
    return pictures


class Codes(Task):
    """A drawing task with a target for each code, where predictions of two models are compared."""

    auto_class: ClassVar[str] = "DiffusionPipeline"
    draws: ClassVar[bool] = True
    reads_files: ClassVar[bool] = True
    unit: ClassVar[str] = UNIT

    def __init__(self, of: Task):
        self.of, self.name = of, of.name  # type: ignore[misc]

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """`positions` [S] count in [R * L]; targets are the picture's, which the model knows, and stand as zeros."""
        count = int(rows[0].fields["length"])
        batch = self.of.collate(rows, packed, epochs=epochs, seed=seed)
        return batch.replace(
            labels=torch.zeros(len(rows) * count, dtype=torch.long),
            weights=torch.ones(len(rows) * count),
            rows=torch.arange(len(rows)).repeat_interleave(count),
            positions=torch.arange(len(rows) * count),
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`logits` [S, V] of each code of each picture."""
        with context.reading(None):
            said = model(**batch.inputs, output_hidden_states=hidden)
        return Outputs(said.logits.flatten(0, 1), batch.labels, hidden=said.hidden)
