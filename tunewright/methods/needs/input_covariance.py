"""input_covariance: for each linear site, the mean over samples of X^T X of what flows into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need
from tunewright.methods.needs import _held
from tunewright.models.sites import Site


class InputCovariance(Need):
    """{site name: C [in, in]}, fp32: C = sum over real tokens of x^T x / rows. One pass, evaluation mode, no gradient.

    Padding is left out. Sites that read the same tensor (query, key, value) share one C. A site that no token reaches
    (a rarely used expert) is absent. Rows are drawn by the recipe's seed.
    """

    name: ClassVar[str] = "input_covariance"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "once"

    source: str = Field(description="name of the rows to read: keep, train ...")
    samples: PositiveInt = Field(description="rows to read")
    target_modules: str | tuple[str, ...] = Field("all-linear", description="sites to look at")

    def check(self, run: Any) -> None:
        run.source(self.source)

    def compute(self, run: Any, batch: Batch | None = None) -> dict[str, Tensor]:
        return _held.kept(
            self,
            run,
            lambda sites: covariances(
                sites, lambda b: run.task.forward(run.adapted.model, b), run.batches(self.source, self.samples)
            ),
        )


def covariances(sites: list[Site], forward: Callable[[Batch], Any], batches: Any) -> dict[str, Tensor]:
    """Accumulate X^T X of every site over the batches, divided by the number of rows."""
    totals: dict[str, Tensor] = {}
    leader: dict[str, str] = {}
    last: tuple[str, Tensor] | None = None
    mask: Tensor | None = None
    counting = False

    def read(name: str, x: Tensor) -> None:
        nonlocal last
        if not counting:
            return
        if last is not None and last[1] is x:
            leader.setdefault(name, leader.get(last[0], last[0]))
        last = (name, x)
        if name in leader:
            return
        x = x.detach().flatten(0, -2)
        if mask is not None and len(mask) == len(x):
            x = x[mask]
        x = x.float()
        if name not in totals:
            totals[name] = torch.zeros(x.shape[-1], x.shape[-1], device=x.device)
        totals[name].addmm_(x.t(), x)

    hooks = [s.module.register_forward_pre_hook(lambda _, args, name=s.name: read(name, args[0])) for s in sites]
    rows = 0
    try:
        with torch.no_grad():
            for batch in batches:
                attention = batch.inputs.get("attention_mask")
                mask = None if attention is None else attention.flatten().bool()
                if not rows:
                    # a task may try a model out on its first batch: those passes are not samples
                    forward(batch)
                    counting = True
                forward(batch)
                rows += len(batch.row_ids)
                last = None
    finally:
        for h in hooks:
            h.remove()
    means = {n: t.div_(rows) for n, t in totals.items() if bool(t.diagonal().any())}
    return {s.name: means[leader.get(s.name, s.name)] for s in sites if leader.get(s.name, s.name) in means}
