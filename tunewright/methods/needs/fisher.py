"""fisher: how sensitive the loss is to each entry of a weight, at the weights the stage starts with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need
from tunewright.methods.needs import _held
from tunewright.models.sites import Site


class Fisher(Need):
    """{site name: F [out, in]}, fp32: the diagonal empirical Fisher information, without padding, in evaluation mode.

    F = mean over rows of (d mean-token loss of the row / d W)^2, elementwise. Each row is a backward pass of its own,
    so that no cross terms between rows enter. As large as the weights that are looked at. Rows are drawn by the seed.
    """

    name: ClassVar[str] = "fisher"
    when: ClassVar[Literal["once", "batch", "redraw", "end"]] = "once"
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
            lambda sites: diagonal_fisher(
                sites, lambda b: mean_loss(run, b), run.batches(self.source, self.samples, tokens=1)
            ),
        )


def mean_loss(run: Any, batch: Batch) -> Tensor:
    """The task's loss of a batch, averaged over its weighted labels."""
    loss = run.task.loss(run.task.forward(run.adapted.model, batch), batch)
    weight = batch.weights if loss.weight is None else loss.weight
    mean: Tensor = (loss.value * weight).sum() / weight.sum().clamp_min(1e-12)
    return mean


def diagonal_fisher(sites: list[Site], loss: Callable[[Batch], Tensor], rows: Iterable[Batch]) -> dict[str, Tensor]:
    """Mean of squared gradients over batches of one row each; what required a gradient before does so after."""
    return mean_of_gradients(sites, loss, rows, None)


def mean_of_gradients(
    sites: list[Site],
    value: Callable[[Batch], Tensor],
    rows: Iterable[Batch],
    of: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Mean over batches of one row each of `of` (none: the square) of the gradients of `value`, [out, in] by site."""
    was = [s.weight.requires_grad for s in sites]
    totals = {s.name: torch.zeros(s.weight.shape, device=s.weight.device) for s in sites}
    count = 0
    try:
        for s in sites:
            s.weight.requires_grad_(True)
        for row in rows:
            if len(row.labels) == 0:
                continue
            grads = torch.autograd.grad(value(row), [s.weight for s in sites], allow_unused=True)
            for s, g in zip(sites, grads, strict=True):
                if g is not None and of is None:
                    totals[s.name].addcmul_(g.float(), g.float())
                elif g is not None and of is not None:
                    totals[s.name].add_(of(g.float()))
            count += 1
    finally:
        for s, before in zip(sites, was, strict=True):
            s.weight.requires_grad_(before)
    return {s.name: _matrix(s, totals[s.name] / max(1, count)) for s in sites}


def _matrix(site: Site, stored: Tensor) -> Tensor:
    if site.kind == "conv1d":
        return stored.t().contiguous()
    return stored.flatten(1) if site.kind == "conv" else stored
