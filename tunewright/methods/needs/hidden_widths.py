"""hidden_widths: how wide each layer of the model, or of another one, is; found by running it on one row."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need


class HiddenWidths(Need):
    """{model name: (width a layer, embeddings first)}; the model that trains is called "" here.

    MethodError when the recipe names no such model. A method that makes projectors reads it in `begin_task`.
    """

    name: ClassVar[str] = "hidden_widths"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "once"

    models: tuple[str, ...] = Field(("", "teacher"), description="which models; empty: the one that trains")

    def check(self, run: Any) -> None:
        run.source("train")
        for name in self.models:
            if name:
                run.model(name)

    def compute(self, run: Any, batch: Batch | None = None) -> dict[str, tuple[int, ...]]:
        row = run.task.collate(run.source("train")[:1], run.packed, seed=run.seed).to(run.device)
        widths = {}
        for name in self.models:
            adapted = run.model(name) if name else run.adapted
            with adapted.evaluating() as model, torch.no_grad():
                hidden = run.task.forward(model, row, hidden=True).hidden
            widths[name] = tuple(int(h.shape[1] if h.dim() == 4 else h.shape[-1]) for h in hidden)
        return widths
