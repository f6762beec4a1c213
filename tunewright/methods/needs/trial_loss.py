"""trial_loss: what the loss would be if the deltas of some blocks were weaker."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from tunewright.contract.batch import Batch, Row
from tunewright.contract.method import Need
from tunewright.models.adapted import Adapted

Trial = Callable[[Iterable[int], float, int], float]


class TrialLoss(Need):
    """A function trial(blocks, factor, draw) -> mean loss per target, in nats, with the deltas of `blocks` at `factor`.

    The loss is taken in eval mode and without gradient over `rows` rows; `draw` numbers the drawing of rows: equal
    numbers see equal rows, whatever happened in between, so that a resumed run repeats its trials. Every delta's
    strength is put back exactly.
    """

    name: ClassVar[str] = "trial_loss"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "redraw"
    source: str = Field("train", description="rows to try on: train, keep, validation or another source of the recipe")
    rows: int = Field(16, gt=0, description="rows per trial")

    def check(self, run: Any) -> None:
        run.with_loss(self.source)

    def compute(self, run: Any, batch: Batch | None = None) -> Trial:
        def trial(blocks: Iterable[int], factor: float, draw: int) -> float:
            rows: list[Row] = run.source(self.source)
            picked = random.Random(f"{run.seed}/{self.name}/{self.source}/{draw}").sample(
                rows, min(self.rows, len(rows))
            )
            trial_batch = run.task.collate(picked, run.packed, seed=run.seed).to(run.device)
            with weakened(run.adapted, blocks, factor), run.adapted.evaluating() as model, torch.no_grad():
                loss = run.task.loss(run.task.forward(model, trial_batch), trial_batch)
            return float((loss.value * trial_batch.weights).sum() / trial_batch.weights.sum())

        return trial


@contextmanager
def weakened(adapted: Adapted, blocks: Iterable[int], factor: float) -> Iterator[None]:
    """Inside, the deltas of these blocks act with `factor` times their strength; each one's own strength is put
    back.
    """
    chosen = set(blocks)
    by_site = adapted.deltas()
    touched = [d for s in adapted.structure.every_site if s.block in chosen for d in by_site.get(s.name, {}).values()]
    strengths = [d.strength for d in touched]
    try:
        for delta in touched:
            delta.strength *= factor
        yield
    finally:
        for delta, strength in zip(touched, strengths, strict=True):
            delta.strength = strength
