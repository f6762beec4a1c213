"""block_importance: how much worse a model gets without each of its blocks."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need
from tunewright.methods.needs.fisher import mean_loss


class BlockImportance(Need):
    """[L] floats: the rise of the mean loss on `samples` rows of a source when all parameters of a block are zero.

    Of the model as it is before `prepare`, in evaluation mode. Rows are drawn by the seed. L + 1 passes over the rows.
    """

    name: ClassVar[str] = "block_importance"
    when: ClassVar[Literal["once", "prepare", "batch", "redraw", "end"]] = "prepare"

    source: str = Field(description="name of the rows to read: keep, train ...")
    samples: PositiveInt = Field(description="rows to read")

    def check(self, run: Any) -> None:
        run.with_loss(self.source)

    @torch.no_grad()
    def compute(self, run: Any, batch: Batch | None = None) -> list[float]:
        batches = list(run.batches(self.source, self.samples))
        parameters = dict(run.adapted.model.named_parameters())

        def loss() -> float:
            return sum(float(mean_loss(run, b)) for b in batches) / len(batches)

        base, rises = loss(), []
        for block in run.adapted.structure.blocks:
            held = {n: parameters[n].data for n in block.parameter_names}
            try:
                for n, values in held.items():
                    parameters[n].data = torch.zeros_like(values)
                rises.append(loss() - base)
            finally:
                for n, values in held.items():
                    parameters[n].data = values
        return rises
