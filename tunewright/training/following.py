"""What follows the entries that train when another choice is drawn: moments, values, moving averages of weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Places = Mapping[str, Tensor | None]
"""By a parameter's name, the sorted flat places of its entries that train; None: all of them."""


def carried(copies: Mapping[str, Tensor], old: Places, new: Places, present: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the leaves as they were drawn before, as copies of the leaves that are drawn now.

    Entries that go on training keep their value, newcomers among a copy's entries start from the `present` value of
    their leaf; a copy of what no longer trains is left out. Shapes are those of the leaves.
    """
    return {n: _carried(copy, old.get(n), new.get(n), present[n]) for n, copy in copies.items() if n in present}


def _carried(copy: Tensor, old: Tensor | None, new: Tensor | None, present: Tensor) -> Tensor:
    if old is None:
        return copy if new is None else copy.reshape(-1)[new.to(copy.device)]
    if new is None:
        out = present.detach().to(copy.dtype, copy=True)
        out.view(-1)[old.to(copy.device)] = copy
        return out
    return moved(copy, old, new, present.detach().to(copy.dtype, copy=True))


def remap(values: Tensor, old: Tensor | None, new: Tensor | None) -> Tensor:
    """Carry a per-entry tensor from one sorted index to another: kept entries keep theirs, newcomers start at 0.

    What is no such tensor (a step count, a whole tensor's moments) is returned as it is.
    """
    if old is None or new is None or values.shape != old.shape:
        return values
    return moved(values, old, new, torch.zeros(new.shape, dtype=values.dtype, device=values.device))


def moved(values: Tensor, old: Tensor, new: Tensor, fresh: Tensor) -> Tensor:
    """`fresh` [new], where entries that stood at `old` already have their `values` [old]. Places are sorted."""
    old, new = old.to(values.device), new.to(values.device)
    if old.numel():
        place = torch.searchsorted(old, new).clamp_(max=old.numel() - 1)
        kept = old[place] == new
        fresh[kept] = values[place[kept]]
    return fresh
