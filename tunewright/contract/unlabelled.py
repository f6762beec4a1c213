"""What a method sees of a stream at test time: inputs without labels, what the model says of them, and the weights that
it may move.

Shapes: R rows, V classes, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Outputs
from tunewright.errors import MethodError

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
"""Makes the optimizer of what moves, in the order of the names."""


class Collapsed(Exception):
    """An update that must not stand: what moved goes back to the source. Caught by whoever drives the stream."""


def _no_labels() -> MethodError:
    return MethodError(
        "the rows of a test-time stream have no labels",
        where="adapt",
        remedy="learn from batch.inputs, outputs.logits and outputs.features alone",
    )


class Unlabelled(Batch):
    """A batch of which inputs, ids and sources are there, and labels are not: asking for them is a MethodError.

    Built by `of`, from a batch whose labels are dropped there and then.
    """

    @classmethod
    def of(cls, batch: Batch) -> Unlabelled:
        """The batch without its labels; of its fields only the lengths of the rows stay."""
        return cls(
            inputs=dict(batch.inputs),
            labels=batch.labels.new_empty(0),
            weights=torch.ones(len(batch.row_ids), device=batch.weights.device),
            rows=batch.rows,
            row_ids=list(batch.row_ids),
            sources=list(batch.sources),
            tokens=batch.tokens,
            epochs=list(batch.epochs),
            fields={k: v for k, v in batch.fields.items() if k == "prompt_lengths"},
        )

    def __getattribute__(self, name: str) -> Any:
        if name == "labels":
            raise _no_labels()
        return super().__getattribute__(name)

    def replace(self, **changes: Any) -> Unlabelled:
        """A copy with some fields changed."""
        return replace(self, **{**changes, "labels": torch.empty(0)})

    def repeated(self, times: int) -> Unlabelled:
        """The rows `times` after one another, all of them each time: [R] becomes [times R]."""

        def again(x: Any) -> Any:
            return torch.cat([x] * times) if isinstance(x, Tensor) else x

        rows = len(self.row_ids)
        return self.replace(
            inputs={k: again(v) for k, v in self.inputs.items()},
            weights=again(self.weights),
            rows=torch.arange(times * rows, device=self.rows.device),
            row_ids=self.row_ids * times,
            sources=self.sources * times,
            tokens=self.tokens * times,
            epochs=self.epochs * times,
            fields={k: again(v) for k, v in self.fields.items()},
        )

    def plain(self) -> Batch:
        """A batch that a task's `forward` takes: its labels are zeros, which nothing is made of."""
        there = {k: v for k, v in vars(self).items() if k != "labels"}
        return Batch(labels=torch.zeros_like(self.rows), **there)


class Unjudged(Outputs):
    """What the model says of rows without labels: `logits` [R, V], `features`, `head`, `hidden`."""

    def __init__(self, outputs: Outputs):
        self._logits = outputs.logits
        self.hidden, self.features, self.head = outputs.hidden, outputs.features, outputs.head
        self.raw, self.present = None, outputs.present

    @property
    def labels(self) -> Tensor:  # type: ignore[override]
        raise _no_labels()

    def log_probs(self) -> Tensor:
        raise _no_labels()


class Moving:
    """What a method may change of the model at test time, by name.

    `parameters` are the model's own (change them under `torch.no_grad()`, or by `descend`); `source` are their values
    when the stream began.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]):
        self.parameters = dict(parameters)
        self.source = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.optimizer: torch.optim.Optimizer | None = None
        self.saved: dict[str, Any] | None = None  # of an optimizer that is made when it is first asked for
        self.backwards = 0

    def descend(self, loss: Tensor, make: Make) -> None:
        """One step down the loss [], by the optimizer that `make` gives; it is kept until the weights are restored.

        Raises Collapsed where the loss, a gradient or a moved weight is not finite: the driver catches it. MethodError
        for a loss that knows of nothing that may move.
        """
        if not self.parameters or not loss.requires_grad:
            raise MethodError(
                "there is no gradient to descend: " + ("the loss has none" if self.parameters else "nothing may move"),
                where="adapt",
                remedy="write forward(batch, grad=True)"
                if self.parameters
                else "name what moves in adapts(candidates)",
            )
        if not bool(torch.isfinite(loss)):
            raise Collapsed("the loss was not finite")
        moved = list(self.parameters.values())
        # not backward(): hooks that training left on the parameters would take the gradients away
        gradients = torch.autograd.grad(loss, moved, allow_unused=True)
        self.backwards += 1
        if any(g is not None and not bool(torch.isfinite(g).all()) for g in gradients):
            raise Collapsed("a gradient was not finite")
        optimizer = self._made(make)
        for p, g in zip(moved, gradients, strict=True):
            p.grad = g
        optimizer.step()
        for p in moved:
            p.grad = None
        if not self.finite():
            raise Collapsed("a weight was not finite")

    def _made(self, make: Make) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = make(list(self.parameters.values()))
            if self.saved is not None:
                self.optimizer.load_state_dict(self.saved)
                self.saved = None
        return self.optimizer

    def finite(self) -> bool:
        """Whether every weight that may move is finite."""
        return all(bool(torch.isfinite(p).all()) for p in self.parameters.values())

    def restore(self) -> None:
        """Source values, and no optimizer: what it had gathered is of other weights."""
        with torch.no_grad():
            for n, p in self.parameters.items():
                p.copy_(self.source[n])
        self.optimizer, self.saved = None, None

    def set(self, values: Mapping[str, Tensor]) -> None:
        """Put values by name in the place of the present ones."""
        with torch.no_grad():
            for n, v in values.items():
                self.parameters[n].copy_(v)

    def values(self) -> dict[str, Tensor]:
        """Copies of the present values by name."""
        return {n: p.detach().clone() for n, p in self.parameters.items()}
