"""Rows that choices are made on while a stage trains: never those that it trains on, nor those that it is measured on.

A method sees them through the slots `step`, `mixture` and `update`: as gradients at the present weights (of the task's
plain loss: what other methods make of batches does not reach here), or as losses by source. They come round in an order
of their own, whose place is saved with the stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from tunewright.contract.batch import Batch
from tunewright.contract.method import arguments
from tunewright.data.order import Cursor, natural_shares
from tunewright.errors import MethodError
from tunewright.training.losses import sum_weights, weighted_sum


class Held(Protocol):
    """Validation rows by source: a `data.dataset.Dataset`."""

    @property
    def sources(self) -> Any: ...


class Validation:
    """Validation rows of a stage. `batch_tokens` a batch, as the stage's own.

    Weights, gradients that are being gathered, and the model's mode are as they were after every call.
    """

    def __init__(self, loop: Any, rows: Held | None, asking: str):
        if rows is None:
            raise no_rows(asking)
        self._loop = loop
        self._sources = {d.name: d for d in rows.sources}
        shares = natural_shares({n: sum(r.size for r in d.rows) for n, d in self._sources.items()})
        spec = loop.spec
        self._cursor = Cursor(
            list(self._sources.values()), shares, seed=spec.seed, batch_tokens=getattr(spec, "batch_tokens", 2048)
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources."""
        return tuple(self._sources)

    def next_batch(self) -> list[Batch]:
        """The next rows, as micro-batches no larger than the stage's own."""
        return self._batches([row for row, _ in self._cursor.next_batch()])

    def gradients(self, batches: list[Batch] | None = None) -> dict[str, Tensor]:
        """Gradient of the mean loss of `batches` (none: the next) at the present weights, by parameter name."""
        loop = self._loop
        batches = self.next_batch() if batches is None else batches
        kept = {n: (leaf.leaf.grad, leaf.parameter.grad) for n, leaf in loop.trained.leaves.items()}
        total = sum_weights(batches, None)

        def once() -> None:
            for batch in batches:
                loss = loop.stage.task.loss(loop.forward(batch), batch)
                loop.scale.backward(weighted_sum(loss, batch, None) / total)

        try:
            with torch.enable_grad(), loop.adapted.evaluating():  # the slot `update` is called without a graph
                loop.scale.settled(once)
            return {n: g.clone() for n, g in loop.trained.gradients().items()}
        finally:
            for n, (of_leaf, of_parameter) in kept.items():
                leaf = loop.trained.leaves[n]
                leaf.leaf.grad, leaf.parameter.grad = of_leaf, of_parameter

    def loss(self, batches: list[Batch] | None = None) -> float:
        """Mean loss of `batches` (none: the next) at the present weights."""
        batches = self.next_batch() if batches is None else batches
        loop = self._loop
        with loop.adapted.evaluating(), torch.no_grad():
            total = sum(float(weighted_sum(loop.stage.task.loss(loop.forward(b), b), b, None)) for b in batches)
        return total / float(sum_weights(batches, None))

    def losses(self, rows: int = 64) -> dict[str, float]:
        """Mean loss by source, each over its first `rows` rows."""
        return {n: self.loss(self._batches(list(d.rows[:rows]))) for n, d in self._sources.items()}

    def _batches(self, rows: list[Any]) -> list[Batch]:
        loop, groups, size = self._loop, [[]], 0  # type: ignore[var-annotated]
        limit = loop.micro_tokens or getattr(loop.spec, "batch_tokens", None)
        for row in rows:
            if groups[-1] and limit and size + row.size > limit:
                groups.append([])
                size = 0
            groups[-1].append(row)
            size += row.size
        return [
            loop.stage.task.collate(g, loop.stage.packed, seed=loop.spec.seed).to(loop.stage.device) for g in groups
        ]

    def state(self) -> dict[str, Any]:
        """The place in the rows, as JSON."""
        return self._cursor.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self._cursor.restore(state)


def no_rows(method: str) -> MethodError:
    """What is said to a method that chooses on validation rows where there are none."""
    return MethodError(
        f"'{method}' chooses on validation rows, and the recipe has none",
        where="data.validation",
        remedy="write data.validation: 10% (of the training rows), or a file of its own",
    )


def asks(kind: Any) -> bool:
    """Whether a method's class asks for validation rows in one of its slots."""
    return any("validation" in arguments(kind, slot) for slot in kind.slots())
