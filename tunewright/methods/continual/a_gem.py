"""A-GEM: averaged gradient episodic memory, a step that does not raise the loss on kept rows (Chaudhry et al. 2019,
arXiv:1812.00420; papers: a-gem).

    g <- g - (g . r / r . r) r   where g . r < 0;   g unchanged elsewhere

g is the gradient of the step over everything that trains, r that of the same loss on `minibatch_size` rows of earlier
stages, drawn of the buffer for each step. What is left has g . r = 0: to first order the kept rows' mean loss stays.
In the first stage there is nothing to keep. Penalties of other methods are in g and not in r. Logged: `projected/a-gem`
(1 where a step was changed) and `reference/a-gem` (the loss on the drawn rows, before the step).

Defaults: as many rows as the step has (the authors: 256, with batches of 10); which rows are kept, `keep`, by
pieces/rehearsal.py, as `er` does. Source: the paper's equation 11, and aimagelab/mammoth, models/agem.py.
Differs from the paper in: the buffer is one reservoir over all stages (the paper: an equal part for each task). Under
AdamW the step is not along g, so that the property holds of the gradient and not of the step; `optimizer: sgd` holds it
of both.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.method import State
from tunewright.pieces.gradient_vectors import Gradient, added, dot
from tunewright.pieces.rehearsal import RehearsalMethod
from tunewright.training.inner import Inner

NAME = "a-gem"


def projected(g: Gradient, reference: Gradient) -> tuple[dict[str, Tensor], bool]:
    """(g without its part against `reference`, whether it had one)."""
    along = dot(g, reference)
    if along >= 0:
        return dict(g), False
    return added(g, [reference], [-along / dot(reference, reference)]), True


class AGEM(RehearsalMethod):
    """Take out of each step's gradient what would raise the mean loss on kept rows of earlier stages."""

    minibatch_size: PositiveInt | None = Field(
        None, description="kept rows a step; left out: as many as the step has rows", examples=[1]
    )

    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"buffer_size": 6}
    conformance_stages: ClassVar[int] = 2
    _name: ClassVar[str] = NAME

    def step(self, inner: Inner, step: int, state: State) -> None:
        buffer = self._buffer(state)
        g = inner.gradients()
        there = [slot for slots in buffer.earlier().values() for slot in slots]
        drawn = buffer.draw(self.minibatch_size or len(inner.rows), step, among=there)
        if drawn:
            reference, loss = inner.gradients_of([buffer.row(slot) for slot in drawn])
            kept, changed = projected(g, reference)
            inner.leave(kept)
            inner.record |= {f"projected/{NAME}": float(changed), f"reference/{NAME}": loss}
        buffer.add(inner.rows)
