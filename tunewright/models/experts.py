"""Several experts on one model: deltas of the same sites under different names, of which one speaks at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.models.deltas import Delta, deltas_of
from tunewright.models.sites import Structure


def expert(structure: Structure, name: str) -> list[Delta]:
    """The deltas called `name`, site by site; those of an earlier stage bear its name before theirs."""
    return [d for s in structure.every_site for n, d in deltas_of(s).items() if n == name or n.endswith("-" + name)]


@contextmanager
def speaking(structure: Structure, names: Sequence[str], speaker: str) -> Iterator[None]:
    """Inside, of the experts `names` only `speaker` adds its change."""
    strengths = [(d, d.strength, float(name == speaker)) for name in names for d in expert(structure, name)]
    for d, _, strength in strengths:
        d.strength = strength
    try:
        yield
    finally:
        for d, before, _ in strengths:
            d.strength = before


class Ensemble(nn.Module):
    """A classifier whose experts answer together: `combine` turns logits [experts, R, V] into one [R, V].

    While training the model alone runs, with the experts as they are switched. The first name speaks last, so that
    features that are read on the way are its.
    """

    def __init__(self, model: Any, structure: Structure, names: Sequence[str], combine: Callable[[Tensor], Tensor]):
        super().__init__()
        self.model, self.config = model, model.config
        self._held = (structure, tuple(names), combine)

    def forward(self, **inputs: Any) -> Any:
        if self.training:
            return self.model(**inputs)
        structure, names, combine = self._held
        outs: list[Any] = []
        for name in [n for n in names[::-1] if expert(structure, n)]:
            with speaking(structure, names, name):
                outs.append(self.model(**inputs))
        outs[-1].logits = combine(torch.stack([o.logits for o in outs]))
        return outs[-1]
