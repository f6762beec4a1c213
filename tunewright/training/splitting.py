"""Gradients of a step whose rows may not fit into memory at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tunewright.contract.batch import Row
from tunewright.machine.group import present
from tunewright.models.activations import offloading
from tunewright.training.inner import Inner


def with_splits(loop: Any, rows: Sequence[tuple[Row, int]]) -> dict[str, Any]:
    """Gradients of the step; when memory runs out, again from its first micro-batch with half the tokens each."""
    loop.micro_tokens = loop.stage.splits.get(loop.step_number, loop.micro_tokens)
    drawn = loop.randomness.now()
    parameters = [*loop.adapted.outer.parameters(), *loop.trained.parameters().values()]
    while True:
        try:
            with offloading(parameters, loop.spec.activation_offloading):
                return _gradients(loop, rows)
        except (torch.OutOfMemoryError, MemoryError):
            if present().many:
                raise  # the others would wait for gradients that never come
            loop.trained.zero_grad()
            loop.randomness.again(drawn)
            largest = max(r.size for r, _ in rows)
            total = sum(r.size for r, _ in rows)
            now = min(loop.micro_tokens or total, total)
            if now <= largest:
                raise
            loop.micro_tokens = max(largest, now // 2)
            loop.stage.splits[loop.step_number] = loop.micro_tokens
            loop.stage.on_split(loop.step_number, loop.micro_tokens)


def _gradients(loop: Any, rows: Sequence[tuple[Row, int]]) -> dict[str, Any]:
    owner = loop.methods.one("step")
    if owner is None:
        found: dict[str, Any] = loop.gradients(rows)
        return found
    inner = Inner(loop, rows)
    loop.methods.call(
        owner,
        "step",
        inner=inner,
        adapted=loop.adapted,
        validation=loop.validation,
        step=loop.step_number,
        plan=loop.plan,
    )
    return inner.record
