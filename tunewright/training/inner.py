"""What a method may see of a step: how far a trained weight has moved, and gradients as often as it likes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Loss, Outputs, Row
from tunewright.contract.combining import Methods
from tunewright.contract.pairs import rows_for
from tunewright.errors import MethodError
from tunewright.models.deltas import folded, is_plain
from tunewright.training.losses import sum_weights, weighted_sum
from tunewright.training.trained import Trained

Reading = Callable[[Outputs, Batch, Sequence[int]], Loss]
"""(outputs, batch, places) -> a loss for each target of a micro-batch; `places` are its rows' among all that were
asked about.
"""


class Steps(Protocol):
    """The part of a loop that a method's own inner step works with."""

    step_number: int

    @property
    def trained(self) -> Trained: ...
    @property
    def adapted(self) -> Any: ...
    @property
    def methods(self) -> Methods: ...
    @property
    def stage(self) -> Any: ...
    @property
    def rollouts(self) -> Any: ...
    @property
    def scale(self) -> Any: ...
    def backward(self, batches: list[Batch], record: dict[str, Any]) -> Tensor: ...
    def micro_batches(self, rows: Sequence[tuple[Row, int]]) -> list[Batch]: ...
    def forward(self, batch: Batch) -> Outputs: ...
    def gradients(self, rows: Sequence[tuple[Row, int]]) -> dict[str, Any]: ...


@dataclass
class TrainedWeight:
    """What trains at a site: its weight, deltas on it, or both. `change()` [out, in] since the stage began.

    `parameters` are the trained tensors of its deltas, "<delta>.<part>", also of those that do not fold: a penalty on
    what no weight can hold reads these. `foldable`: whether `change()` tells all of it.
    """

    site: Any
    deltas: dict[str, Any]
    start: Tensor | None

    @property
    def foldable(self) -> bool:
        return all(d.foldable for d in self.deltas.values())

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {f"{n}.{k}": p for n, d in self.deltas.items() for k, p in d.named_parameters() if p.requires_grad}

    def change(self) -> Tensor:
        """[out, in], differentiable. MethodError where a delta does not fold: then no change of a weight tells it."""
        self._check()
        deltas = list(self.deltas.values())
        if not all(is_plain(d) for d in deltas):
            weight = self.site.matrix().float()
            return folded(weight, None, deltas)[0] - (weight if self.start is None else self._matrix(self.start))
        total: Any = 0.0
        for d in deltas:
            total = total + d.change()
        if self.start is not None:
            total = total + self._matrix(self.site.weight - self.start)
        result: Tensor = total
        return result

    def bias_change(self) -> Tensor | None:
        """[out] what its deltas add to the site's bias, differentiable; None where none does."""
        self._check()
        deltas = list(self.deltas.values())
        if all(is_plain(d) for d in deltas):
            return None
        return folded(self.site.matrix().float(), None, deltas)[1]

    def _check(self) -> None:
        if other := [d.form for d in self.deltas.values() if not d.foldable]:
            raise MethodError(
                f"a penalty reads the change of the weight of '{self.site.name}', and its {other[0]} delta is none",
                where="penalty",
                remedy="pass over what is not `foldable`, or read `parameters`, which holds every trained tensor",
            )

    def _matrix(self, stored: Tensor) -> Tensor:
        """A tensor in the weight's own layout as [out, in]."""
        kind = self.site.kind
        return stored.t() if kind == "conv1d" else stored.flatten(1) if kind == "conv" else stored


class Inner:
    """What a method that owns the inner step may do: compute gradients at the present weights, as often as it likes.

    The last call of `gradients()` leaves the gradients with which the optimizer steps, or `leave` others in their
    place. One that asks for none reads the rows itself (`rows`, `batches`, `reading`), and says what is logged
    (`tell`). Rows of its own, such as those that it kept of earlier tasks, join the step's (`also`) or have gradients
    apart (`gradients_of`); they are changed by methods on `row` and `batch` and split as the step's rows are, and what
    budgets count is the step's rows alone.
    """

    def __init__(self, loop: Steps, rows: Sequence[tuple[Row, int]]):
        self._loop, self._rows = loop, rows
        self.record: dict[str, Any] = {}

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Trained leaves by name; after moving them call `moved()`."""
        return self._loop.trained.parameters()

    def on(self, slot: str) -> list[str]:
        """Names of the stage's methods that fill a slot."""
        return [b.name for b in self._loop.methods.on(slot)]

    def gradients(self, also: Sequence[Row] = ()) -> dict[str, Tensor]:
        """Gradients of this step's rows, and of those that join them, at the present weights: of one loss over all."""
        self.record = self._loop.gradients([*self._rows, *self._own(also)])
        if also:
            self.record["joined_rows"] = len(also)
        return self._loop.trained.gradients()

    def gradients_of(self, rows: Sequence[Row], loss: Reading | None = None) -> tuple[dict[str, Tensor], float]:
        """(gradients by name, loss) of other rows than the step's at the present weights: of the stage's objectives
        or the task's loss without penalties, or of the mean of `loss` over their targets. What `gradients()` left
        stays.
        """
        loop = self._loop
        kept = {n: leaf.leaf.grad for n, leaf in loop.trained.leaves.items()}
        try:
            batches = loop.micro_batches(self._own(rows))
            total = loop.scale.settled(lambda: self._total(batches, loss))
            return {n: g.clone() for n, g in loop.trained.gradients().items()}, float(total)
        finally:
            loop.trained.zero_grad()
            for n, gradient in kept.items():
                loop.trained.leaves[n].leaf.grad = gradient

    def _total(self, batches: list[Batch], loss: Reading | None) -> Tensor:
        return self._loop.backward(batches, {}) if loss is None else self._mean(batches, loss)

    def _mean(self, batches: Sequence[Batch], loss: Reading) -> Tensor:
        weights, total, at = sum_weights(batches, None), torch.zeros((), device=self._loop.stage.device), 0
        for batch in batches:
            places = range(at, at + len(batch.row_ids))
            at += len(batch.row_ids)
            part = weighted_sum(loss(self._loop.forward(batch), batch, places), batch, None) / weights
            if part.requires_grad:
                self._loop.scale.backward(part)
            total = total + part.detach()
        return total

    def _own(self, rows: Sequence[Row]) -> list[tuple[Row, int]]:
        """A method's rows as the stage's methods read them, each in an epoch of its own: what is drawn of a row, a
        noise or a mask, is drawn anew in each step.
        """
        loop = self._loop
        if rows and loop.rollouts:
            raise MethodError(
                f"'{loop.rollouts.bound.name}' trains on what the model says, and rows of the data cannot join these",
                where="step",
                remedy="put the method that keeps rows into another stage",
            )
        return [(row, loop.step_number) for row in rows_for([b.method for b in loop.methods], rows, loop.stage.task)]

    def leave(self, gradients: Mapping[str, Tensor]) -> None:
        """Let the optimizer step with these gradients; what is not named does not move."""
        for n, leaf in self._loop.trained.leaves.items():
            g = gradients.get(n)
            leaf.leaf.grad = None if g is None else g.to(leaf.leaf.dtype)

    def moved(self) -> None:
        """Make moved leaves take effect where only entries of a tensor train."""
        self._loop.trained.write_back()

    @property
    def rows(self) -> list[Row]:
        """The step's rows, in their order; one may be there twice, in two epochs."""
        return [row for row, _ in self._rows]

    def batches(self, places: Sequence[int]) -> list[Batch]:
        """Some of the step's rows, by their places in `rows`, as micro-batches on the device."""
        return self._loop.micro_batches([self._rows[i] for i in places]) if places else []

    @contextmanager
    def reading(self) -> Iterator[Callable[[Batch], Outputs]]:
        """A function batch -> outputs, of the model as it is at each call: no gradient, no dropout."""
        with self._loop.adapted.evaluating(), torch.no_grad():
            yield self._loop.forward

    def tell(self, loss: float, labels: int, **figures: float) -> None:
        """What is logged of a step that asked for no gradients: its loss, how many targets were read, and more."""
        self.record = {"loss": loss, "labels": labels, **figures}
