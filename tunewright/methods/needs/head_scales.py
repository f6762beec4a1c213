"""head_scales: how much a short training would scale each attention head's output, under an L1 penalty."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from tunewright.contract.batch import Batch, Row
from tunewright.contract.method import Need
from tunewright.errors import MethodError
from tunewright.methods.needs import _held
from tunewright.methods.needs.fisher import mean_loss
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import InputEdit, attach, detach

NAME = "head-scales"


class HeadScales(Need):
    """{site name: A [heads, d]}, fp32: z <- (1 + A) z at each head's output z [d], trained alone from N(0, std).

    The loss is the task's mean per target plus `l1` sum |A| over the whole model (a sum: a larger model is held back
    more). Adam, its rate falling to 0 over the steps; the model is frozen, in evaluation mode, with what hangs on it.
    Rows are drawn by the seed, each once before any comes again. Afterwards the model is as it was.
    """

    name: ClassVar[str] = "head_scales"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "once"
    takes_gradients: ClassVar[bool] = True

    source: str = Field("train", description="rows to train the scales on")
    steps: PositiveInt = Field(100, description="optimizer steps")
    rows: PositiveInt = Field(8, description="rows per step")
    rate: PositiveFloat = Field(5e-3, description="Adam's learning rate at the first step")
    l1: NonNegativeFloat = Field(5e-4, description="weight of the sum of |A|")
    std: PositiveFloat = Field(1e-3, description="standard deviation of the scales' start")

    def check(self, run: Any) -> None:
        run.with_loss(self.source)
        if not run.adapted.structure.head_outputs():
            raise MethodError(
                "no layer that reads the outputs of attention heads is found in this model",
                where="model",
                remedy="use a model whose attention ends in one linear layer, and whose config gives "
                "num_attention_heads",
            )

    def compute(self, run: Any, batch: Batch | None = None) -> dict[str, Tensor]:
        file = _held.cache_file(self, run, self.source)
        scales = _held.load(file, run.device)
        if scales is None:
            scales = self._trained(run)
            _held.save(file, scales)
        return scales

    def _trained(self, run: Any) -> dict[str, Tensor]:
        with scaled(run.adapted, self.std, run.seed) as edits, torch.enable_grad():
            parameters = [e.scale for e in edits.values()]
            optimizer = torch.optim.Adam(parameters, lr=self.rate)
            for step, rows in enumerate(self._drawn(run)):
                optimizer.param_groups[0]["lr"] = self.rate * (1 - step / self.steps)
                micro_batch = run.task.collate(rows, run.packed, seed=run.seed).to(run.device)
                loss = mean_loss(run, micro_batch) + self.l1 * sum(a.abs().sum() for a in parameters)
                for a, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                    a.grad = g
                optimizer.step()
            sites = run.adapted.structure.head_outputs()
            return {s.name: edits[s.name].scale.detach().view(s.heads, -1).clone() for s in sites}

    def _drawn(self, run: Any) -> Iterator[list[Row]]:
        rng, order = random.Random(f"{run.seed}/{self.name}/{self.source}"), list[Row]()
        for _ in range(self.steps):
            if len(order) < self.rows:
                rows = [r for r in run.source(self.source) if any(r.weights)]
                order += rng.sample(rows, len(rows))
            taken, order = order[: self.rows], order[self.rows :]
            yield taken


@contextmanager
def scaled(adapted: Adapted, std: float, seed: int) -> Iterator[dict[str, Any]]:
    """Inside, every layer that heads' outputs enter has an edit by site name that scales them; nothing else trains."""
    generator = torch.Generator().manual_seed(seed)
    sites = adapted.structure.head_outputs()
    trained = [p for p in adapted.model.parameters() if p.requires_grad]
    edits = {}
    for p in trained:
        p.requires_grad_(False)
    try:
        for s in sites:
            size = s.in_features
            edit = InputEdit(torch.arange(size), torch.zeros(size), torch.randn(size, generator=generator) * std)
            edit.shift.requires_grad_(False)
            attach(s, NAME, edit)
            edits[s.name] = edit
        yield edits
    finally:
        for s in sites:
            if s.name in edits:
                detach(s, NAME)
        for p in trained:
            p.requires_grad_(True)
