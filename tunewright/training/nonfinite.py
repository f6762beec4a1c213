"""Where a value stopped being finite: the first module whose output is not, and the rows that made it so."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunewright.contract.batch import Batch
from tunewright.errors import NonFiniteError


def diagnose(loop: Any, batches: list[Batch], what: str) -> NonFiniteError:
    """Run the step's micro-batches once more, watched; return the error that names layer and rows."""
    for batch in batches:
        layer = _first_bad_module(loop, batch)
        rows = _bad_rows(loop, batch)
        if layer or rows:
            named = f" in layer '{layer}'" if layer else ""
            shown = ", ".join(rows[:5]) or ", ".join(batch.row_ids[:5])
            where = f"step {loop.step_number + 1}{named}, rows {shown}"
            return NonFiniteError(
                what,
                where=where,
                remedy=(
                    "look at these rows with `tunewright check`; lower train.learning_rate; or use "
                    "train.precision: float32"
                ),
            )
    return NonFiniteError(
        what,
        where=f"step {loop.step_number + 1}",
        remedy="lower train.learning_rate, or check the objective's parameters",
    )


def _first_bad_module(loop: Any, batch: Batch) -> str | None:
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            if (
                not found
                and isinstance(first, Tensor)
                and first.is_floating_point()
                and not bool(torch.isfinite(first).all())
            ):
                found.append(name)

        return hook

    handles = [
        m.register_forward_hook(watch(n)) for n, m in loop.adapted.model.named_modules() if n and not list(m.children())
    ]
    try:
        with torch.no_grad():
            _read(loop, batch)
    finally:
        for h in handles:
            h.remove()
    return found[0] if found else None


def _read(loop: Any, batch: Batch) -> Tensor:
    """A value a target [S]: its log-probability, or the loss of a task that has none."""
    outputs = loop.forward(batch)
    values: Tensor = outputs.log_probs() if loop.stage.task.likelihoods else loop.stage.task.loss(outputs, batch).value
    return values


def _bad_rows(loop: Any, batch: Batch) -> list[str]:
    with torch.no_grad():
        values = _read(loop, batch)
    bad = batch.rows[~torch.isfinite(values) | ~torch.isfinite(batch.weights)].unique()
    return [batch.row_ids[int(i)] for i in bad]
