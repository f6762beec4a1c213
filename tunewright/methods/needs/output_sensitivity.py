"""output_sensitivity: how far each entry of a weight moves what the model says, at the weights a stage ends with."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need
from tunewright.errors import MethodError
from tunewright.methods.needs import _held
from tunewright.methods.needs.fisher import mean_of_gradients


class OutputSensitivity(Need):
    """{site name: O [out, in]}, fp32: mean over rows of |d |z|^2 / d W|, elementwise; |z|^2 is the squared length of a
    target's logits [V], averaged over the row's targets. Labels are not read.

    In evaluation mode, a backward pass a row; as large as the weights that are looked at. Rows are drawn by the seed.
    """

    name: ClassVar[str] = "output_sensitivity"
    when: ClassVar[Literal["once", "batch", "redraw", "end"]] = "end"
    takes_gradients: ClassVar[bool] = True

    source: str = Field(description="name of the rows to read: train, keep ...")
    samples: PositiveInt = Field(description="rows to read")
    target_modules: str | tuple[str, ...] = Field("all-linear", description="sites to look at")

    def check(self, run: Any) -> None:
        if run.task.embeds:
            raise MethodError(
                f"a method reads how far logits move, and {run.task.name} gives vectors of texts",
                where="task",
                remedy="take si, er or o-lora",
            )
        run.source(self.source)

    def compute(self, run: Any, batch: Batch | None = None) -> dict[str, Tensor]:
        def length(row: Batch) -> Tensor:
            said: Tensor = run.task.forward(run.adapted.model, row).logits
            return said.float().square().sum(-1).mean()

        rows = run.batches(self.source, self.samples, tokens=1)
        return _held.kept(self, run, lambda sites: mean_of_gradients(sites, length, rows, torch.abs))
