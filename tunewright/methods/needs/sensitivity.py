"""sensitivity: how steep the loss is at each entry of a model, summed over a few batches."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need
from tunewright.methods.needs.fisher import mean_loss
from tunewright.models.adapted import Adapted


class Sensitivity(Need):
    """{parameter name: s}, fp32, of the parameter's shape: s = sum over batches of (d mean loss of the batch / d w)^2.

    Of the linear weights inside blocks and of every vector of the base (norms, biases), new heads and what turns
    pictures into patches left out; at the weights the stage starts with, in evaluation mode. As large as what is looked
    at. Rows are drawn by the seed.
    """

    name: ClassVar[str] = "sensitivity"
    when: ClassVar[Literal["once", "prepare", "batch", "redraw", "end"]] = "once"
    takes_gradients: ClassVar[bool] = True
    source: str = Field("train", description="rows to read")
    batches: PositiveInt = Field(16, description="batches, each of `rows` rows")
    rows: PositiveInt = Field(32, description="rows per batch")

    def check(self, run: Any) -> None:
        run.with_loss(self.source)

    def compute(self, run: Any, batch: Batch | None = None) -> dict[str, Tensor]:
        rows = run.source(self.source)
        picked = random.Random(f"{run.seed}/{self.name}/{self.source}").sample(
            rows, min(self.batches * self.rows, len(rows))
        )
        groups = [picked[i : i + self.rows] for i in range(0, len(picked), self.rows)]
        with run.adapted.evaluating(), torch.enable_grad():
            made = (run.task.collate(g, run.packed, seed=run.seed).to(run.device) for g in groups)
            return summed(looked_at(run.adapted), (mean_loss(run, b) for b in made))


def looked_at(adapted: Adapted) -> dict[str, Tensor]:
    """The parameters whose sensitivity is of interest, by name."""
    base = adapted.base_parameters()
    matrices = [s.weight_name for s in adapted.structure.linear_sites() if s.weight_name in base]
    vectors = [n for n, p in base.items() if p.dim() == 1]
    return {n: base[n] for n in (*matrices, *vectors) if n not in adapted.new and "patch_embed" not in n}


def summed(parameters: dict[str, Any], losses: Iterable[Tensor]) -> dict[str, Tensor]:
    """Sums of squared gradients over losses [] given one after another; what required a gradient before does so
    after.
    """
    was = {n: p.requires_grad for n, p in parameters.items()}
    totals = {n: torch.zeros_like(p, dtype=torch.float32) for n, p in parameters.items()}
    try:
        for p in parameters.values():
            p.requires_grad_(True)
        for loss in losses:
            grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, g in zip(parameters, grads, strict=True):
                if g is not None:
                    totals[name].addcmul_(g.float(), g.float())
    finally:
        for n, p in parameters.items():
            p.requires_grad_(was[n])
    return totals
