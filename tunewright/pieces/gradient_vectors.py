"""Gradients of all parameters as one vector: mappings name -> tensor, compared and added where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Gradient = Mapping[str, Tensor]


def dot(a: Gradient, b: Gradient) -> float:
    """The product of two vectors over the names that both have, summed in double precision."""
    both = [(g, b[n]) for n, g in a.items() if n in b]
    return float(sum(torch.dot(g.double().flatten(), h.double().flatten()) for g, h in both))


def added(g: Gradient, others: Sequence[Gradient], factors: Sequence[float]) -> dict[str, Tensor]:
    """g + sum_k factor_k other_k, with the names of g."""
    found = {}
    for name, own in g.items():
        total = own
        for other, factor in zip(others, factors, strict=True):
            total = torch.add(total, other[name], alpha=factor) if name in other else total
        found[name] = total
    return found
