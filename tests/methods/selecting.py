"""A plain loop that trains some tensors of a model and nothing else: what tests of choosers compare with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tests import tiny
from tests.methods.driving import Cursor, image_rows, text_rows
from tunewright.contract.batch import Row
from tunewright.tasks import get_task
from tunewright.training.train import Loop

EPS = 1e-3
"""Of Adam, in both: a key's bias has a gradient of rounding alone, which a smaller one would blow up."""

BASES: dict[str, tuple[Callable[[], Any], str]] = {
    "causal": (tiny.gpt2, "text-generation"),
    "encoder": (tiny.bert_classifier, "text-classification"),
    "vision": (tiny.vit, "image-classification"),
}


def rows_for(task: str) -> list[Row]:
    """Rows of the task, of three classes where it has labels."""
    if task == "image-classification":
        return image_rows()
    rows = text_rows()
    if task == "text-generation":
        return rows
    return [r.replace(weights=[1.0], label=i % 3) for i, r in enumerate(rows)]


def plainly(model: Any, trains: Callable[[str], bool], rows: Sequence[Row], task: str, steps: int = 3) -> Any:
    """The model after `steps` of torch's AdamW over the tensors that are named, on the rows that `Run` would take."""
    served, cursor = get_task(task), Cursor({"new": rows})
    for name, p in model.named_parameters():
        p.requires_grad_(trains(name))
    chosen = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(chosen, lr=1e-2, eps=EPS, weight_decay=0.0)
    for _ in range(steps):
        batch = served.collate([r for r, _ in cursor.next_batch()], False, seed=0)
        loss = served.loss(served.forward(model, batch), batch)
        ((loss.value * batch.weights).sum() / batch.weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(chosen, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model


def gradient_numbers(loop: Loop) -> int:
    """How many numbers of gradients exist after the backward pass of one more step, in the model and beside it."""
    rows, _ = loop.take()
    loop.gradients(rows)
    leaves = {id(p): p for p in (*loop.trained.parameters().values(), *loop.adapted.model.parameters())}
    return sum(p.grad.numel() for p in leaves.values() if p.grad is not None)


def state_numbers(loop: Loop) -> int:
    """How many numbers the optimizer keeps, step counts aside."""
    return sum(t.numel() for t in loop.optimizers.state().values() if t.dim())


def stayed(model: Any, base: Any) -> dict[str, Tensor]:
    """For each tensor, where it still has the base's bits: bool, of its shape."""
    before = dict(base.named_parameters())
    return {n: p.detach() == before[n].detach() for n, p in model.named_parameters() if n in before}
