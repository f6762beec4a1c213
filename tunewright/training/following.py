"""Copies that follow what trains: moving averages of weights are carried along when another choice is drawn."""

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
    out, old = present.detach().to(copy.dtype, copy=True), old.to(copy.device)
    if new is None:
        out.view(-1)[old] = copy
        return out
    new = new.to(copy.device)
    place = torch.searchsorted(old, new).clamp_(max=max(0, old.numel() - 1))
    kept = old[place] == new if old.numel() else torch.zeros_like(new, dtype=torch.bool)
    out[kept] = copy[place[kept]]
    return out
