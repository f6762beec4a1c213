"""GEM: gradient episodic memory, a step that raises the loss on no earlier stage's kept rows (Lopez-Paz & Ranzato 2017,
arXiv:1706.08840; papers: gem).

    min_x 1/2 |x - g|^2   under  G x >= 0;     x = g + G^T v,   v = argmin_(v >= margin) 1/2 v G G^T v + v G g

g is the gradient of the step over everything that trains, and G [t, P] has a row for each earlier stage: the gradient
of the same loss on its kept rows. Nothing is changed where G g >= 0 throughout. A `margin` above 0 goes further than
the constraint asks, which favours what earlier rows gain; it is the authors' "memory strength". The dual problem has
one unknown a stage, and is solved by non-negative least squares (scipy) on v - margin.

Cost: a gradient for each earlier stage in every step, over all its kept rows or `minibatch_size` of them, and t copies
of what trains in memory while a step lasts. Logged: `projected/gem` and `violated/gem` (stages with G g < 0).

Defaults: margin 0.5 and all rows (the authors'). G G^T gets 1e-6 of its mean diagonal added (the authors: 0.001,
whatever the gradients' size). Source: the paper's equations 8 to 11, facebookresearch/GradientEpisodicMemory (model/
gem.py). Differs from the paper in: rows are kept by one reservoir over all stages (the paper: the last ones of each
task); stages are tasks. Under AdamW the step is not along x: see `a-gem`.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, NonNegativeFloat, PositiveInt
from scipy.linalg import solve_triangular
from scipy.optimize import nnls

from tunewright.contract.method import State
from tunewright.pieces.gradient_vectors import added, dot
from tunewright.pieces.rehearsal import RehearsalMethod
from tunewright.training.inner import Inner

NAME = "gem"
RIDGE = 1e-6
Array = npt.NDArray[np.float64]


def dual(gram: Array, along: Array, margin: float) -> Array:
    """v [t] >= margin that minimises 1/2 v `gram` v + v `along`; `gram` [t, t] = G G^T, `along` [t] = G g."""
    count = len(gram)
    lower = np.linalg.cholesky(gram + (RIDGE * np.trace(gram) / count + 1e-30) * np.eye(count))
    slope = along + gram @ np.full(count, margin)
    above, _ = nnls(lower.T, -solve_triangular(lower, slope, lower=True))
    found: Array = above + margin
    return found


class GEM(RehearsalMethod):
    """Take the gradient nearest the step's own that raises no earlier stage's loss on kept rows."""

    margin: NonNegativeFloat = Field(0.5, description="least weight of each earlier stage where a step is changed")
    minibatch_size: PositiveInt | None = Field(
        None, description="kept rows of each earlier stage a step; left out: all", examples=[1]
    )

    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"buffer_size": 6}
    conformance_stages: ClassVar[int] = 2
    _name: ClassVar[str] = NAME

    def step(self, inner: Inner, step: int, state: State) -> None:
        buffer = self._buffer(state)
        g = inner.gradients()
        earlier = []
        for stage, there in buffer.earlier().items():
            drawn = buffer.draw(self.minibatch_size or len(there), step, stage, there)
            earlier.append(inner.gradients_of([buffer.row(slot) for slot in drawn])[0])
        along = np.array([dot(of, g) for of in earlier])
        if earlier:
            violated = int((along < 0).sum())
            if violated:
                gram = np.array([[dot(a, b) for b in earlier] for a in earlier])
                inner.leave(added(g, earlier, dual(gram, along, self.margin).tolist()))
            inner.record |= {f"projected/{NAME}": float(violated > 0), f"violated/{NAME}": float(violated)}
        buffer.add(inner.rows)
