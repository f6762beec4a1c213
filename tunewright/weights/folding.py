"""Changes that read the weight that they change: a layer's weight and bias are made whole, once, and handed on in
ranges.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from tunewright.errors import ModelError
from tunewright.models.deltas import Delta, folded
from tunewright.weights.source import Change, Source


class _Layer:
    """One layer's weight and bias with deltas in them, held until every value of both was asked for."""

    def __init__(self, base: Source, names: Sequence[str], deltas: Sequence[Delta], transposed: bool, first: Change):
        self.base, self.names, self.deltas, self.transposed, self.first = base, names, deltas, transposed, first
        self.made: dict[str, NDArray[np.float32]] | None = None
        self.left: dict[str, int] = {}
        self.lock = threading.Lock()

    def _make(self) -> dict[str, NDArray[np.float32]]:
        whole = {n: self.base.whole(n) for n in self.names}
        weight = whole[self.names[0]]
        self.first(0, weight.reshape(-1))
        matrix = weight.T.copy() if self.transposed else weight.reshape(len(weight), -1)  # a convolution's laid out so
        W = torch.from_numpy(matrix)
        with torch.no_grad():
            new, bias = folded(W, torch.from_numpy(whole[self.names[1]]) if len(self.names) > 1 else None, self.deltas)
        out = {self.names[0]: (new.T if self.transposed else new).contiguous().numpy().reshape(-1)}
        if bias is not None and len(self.names) > 1:
            out[self.names[1]] = bias.numpy()
        return out

    def put(self, name: str, start: int, out: NDArray[np.float32]) -> None:
        with self.lock:
            if self.made is None:
                self.made = self._make()
                self.left = {n: len(t) for n, t in self.made.items()}
            out[:] = self.made[name][start : start + len(out)]
            self.left[name] -= len(out)
            if all(n <= 0 for n in self.left.values()):
                self.made = None


def layer_changes(
    base: Source, weight: str, bias: str | None, deltas: Sequence[Delta], transposed: bool, first: Change | None = None
) -> Mapping[str, Change]:
    """Changes of a layer's stored weight, and of its bias where deltas change one, with the deltas folded in.

    `first`: a change of the weight that comes before. ModelError where a delta needs a bias that the base has not.
    """
    moves = [d for d in deltas if d.form in ("output-scale", "input-edit", "bias")]
    if bias is None and (new := [d for d in moves if d.form != "output-scale"]):
        raise ModelError(
            f"a change of the form '{new[0].form}' gives '{weight}' a bias that the base does not have",
            remedy="write its model: tunewright export RUN",
        )
    names = [weight, bias] if bias is not None and moves else [weight]
    layer = _Layer(base, names, deltas, transposed, first or (lambda start, out: None))

    def change_of(name: str) -> Change:
        return lambda start, out: layer.put(name, start, out)

    return {name: change_of(name) for name in names}
