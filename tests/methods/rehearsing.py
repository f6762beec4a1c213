"""Plain descent by hand on a tiny model, of a text model and one of pictures: what tests of rehearsal compare with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tests import tiny
from tests.methods.driving import Run, image_rows, text_rows
from tunewright.contract.batch import Outputs, Row
from tunewright.models.adapted import Adapted
from tunewright.tasks import get_task

RATE = 0.1
SGD: dict[str, Any] = {"optimizer": type("O", (), {"name": "sgd"})(), "max_grad_norm": None, "learning_rate": RATE}
MODELS: dict[str, Callable[[], Any]] = {"text-generation": tiny.llama, "image-classification": tiny.vit}
TASKS = list(MODELS)


def rows_of(task: str, count: int = 12) -> list[Row]:
    return text_rows(count) if task == "text-generation" else image_rows(count)


class ByHand:
    """A model that takes plain steps; `batches` are the rows of each step of a `Run` over the same rows."""

    def __init__(self, task: str, steps: int = 3):
        self.task, self.rows = get_task(task), rows_of(task, 4 * steps)
        self.adapted = Adapted(MODELS[task]())
        self.model = self.adapted.model.train().requires_grad_(True)
        self.batches = [self.rows[i : i + 4] for i in range(0, 4 * steps, 4)]

    def outputs(self, rows: Sequence[Row]) -> tuple[Outputs, Any]:
        batch = self.task.collate(list(rows))
        return self.task.forward(self.model, batch), batch

    def loss(self, rows: Sequence[Row]) -> Tensor:
        outputs, batch = self.outputs(rows)
        return -(outputs.log_probs() * batch.weights).sum() / batch.weights.sum()

    def logits(self, row: Row) -> Tensor:
        with torch.no_grad():
            return self.outputs([row])[0].logits.clone()

    def gradient(self, loss: Tensor) -> dict[str, Tensor]:
        names = dict(self.adapted.base_parameters())
        return dict(zip(names, torch.autograd.grad(loss, list(names.values())), strict=True))

    def step(self, gradient: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for n, p in self.adapted.base_parameters().items():
                p.sub_(RATE * gradient[n])

    def check(self, run: Run) -> None:
        for n, p in self.adapted.base_parameters().items():
            torch.testing.assert_close(run.adapted.base_parameters()[n].detach(), p.detach(), atol=1e-5, rtol=1e-3)


def trained(method: dict[str, Any], task: str, steps: int = 3, **more: Any) -> Run:
    """A run of plain descent with `method` over the same rows."""
    run = Run(
        method, model=MODELS[task](), task=task, sources={"s": rows_of(task, 4 * steps)}, steps=steps, **{**SGD, **more}
    )
    run.train()
    return run
