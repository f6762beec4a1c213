"""embedding_width: how many numbers a row's vector has, of a task that makes vectors; found by reading one row."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need


class EmbeddingWidth(Need):
    """int: D of `Outputs.embeddings` [N, D]. A method that puts a head beside the model reads it in `begin_task`."""

    name: ClassVar[str] = "embedding_width"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "once"

    def check(self, run: Any) -> None:
        run.source("train")

    def compute(self, run: Any, batch: Batch | None = None) -> int:
        row = run.task.collate(run.source("train")[:1], run.packed, seed=run.seed).to(run.device)
        with run.adapted.evaluating() as model, torch.no_grad():
            return int(run.task.forward(model, row).embeddings.shape[1])
