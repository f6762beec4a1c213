"""auxiliary_outputs: pooled features and logits that other classifiers of the recipe give a micro-batch's rows."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need
from tunewright.errors import MethodError


class AuxiliaryOutputs(Need):
    """For each model asked for ([R, D] features, [R, C] logits), frozen, in eval mode, without gradient.

    The models are loaded when the stage is checked; MethodError for one that has no pooled features.
    """

    name: ClassVar[str] = "auxiliary_outputs"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "batch"

    models: tuple[str, ...] = Field(description="which of the recipe's `models`")

    def check(self, run: Any) -> None:
        for name in self.models:
            run.model(name)

    def compute(self, run: Any, batch: Batch | None = None) -> tuple[tuple[Tensor, Tensor], ...]:
        assert batch is not None
        pairs = []
        for name in self.models:
            with run.model(name).evaluating() as model, torch.no_grad():
                outputs = run.task.forward(model, batch)
            if outputs.features is None:
                raise MethodError(
                    f"the model '{name}' gives no pooled features",
                    where=f"models.{name}",
                    remedy="name a classifier of the run's task",
                )
            pairs.append((outputs.features.detach(), outputs.logits.detach()))
        return tuple(pairs)
