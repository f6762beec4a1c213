"""fisher_sides: means of the diagonal Fisher information over each row and each column of a weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need
from tunewright.methods.needs import _held
from tunewright.methods.needs.fisher import mean_loss
from tunewright.methods.needs.gradient_directions import one_gradient_at_a_time
from tunewright.models.sites import Site


class FisherSides(Need):
    """{"rows.<site>": [out], "columns.<site>": [in]}, fp32: means over columns and over rows of the diagonal empirical
    Fisher information F [out, in], that of `fisher` (mean of squared gradients, a backward pass for each row of data).

    F itself is never kept: one gradient is there at a time. Rows of data are drawn by the seed. A site that no loss
    reaches has zeros.
    """

    name: ClassVar[str] = "fisher_sides"
    when: ClassVar[Literal["once"]] = "once"
    takes_gradients: ClassVar[bool] = True

    source: str = Field(description="name of the rows to read: keep, train ...")
    samples: PositiveInt = Field(description="rows to read")
    target_modules: str | tuple[str, ...] = Field("all-linear", description="sites to look at")

    def check(self, run: Any) -> None:
        run.with_loss(self.source, alone=True)

    def compute(self, run: Any, batch: Batch | None = None) -> dict[str, Tensor]:
        return _held.kept(
            self,
            run,
            lambda sites: sides(sites, lambda b: mean_loss(run, b), run.batches(self.source, self.samples, tokens=1)),
        )


def sides(sites: list[Site], loss: Callable[[Batch], Tensor], rows: Iterable[Batch]) -> dict[str, Tensor]:
    """What `FisherSides` gives, of batches of one row each."""
    sizes = {s.name: {"rows": s.out_features, "columns": s.in_features} for s in sites}
    device = {s.name: s.weight.device for s in sites}
    sums = {f"{side}.{n}": torch.zeros(k, device=device[n]) for n, of in sizes.items() for side, k in of.items()}

    def read(name: str, G: Tensor) -> None:
        squared = G.square()
        sums[f"rows.{name}"] += squared.mean(1)
        sums[f"columns.{name}"] += squared.mean(0)

    count = 0
    with one_gradient_at_a_time(sites, read) as weights:
        for row in rows:
            if len(row.labels):
                loss(row).backward(inputs=weights)
                count += 1
    return {n: t / max(1, count) for n, t in sums.items()}
