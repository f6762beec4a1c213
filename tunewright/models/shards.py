"""Parameters of which each process of a run holds some rows (`divided.py`), as torch's `DTensor`s.

`own` gives the rows that are held here, `whole` all of them, `share` those of a whole tensor that would be held here.
"""

from __future__ import annotations

import torch
from torch import Tensor


def is_divided(t: object) -> bool:
    """Whether a parameter is held in parts."""
    return hasattr(t, "_local_tensor")


def own(t: Tensor) -> Tensor:
    """The rows of a parameter that this process holds, sharing its memory, so that a change of them changes it; what is
    not divided as it is.
    """
    held: Tensor | None = getattr(t, "_local_tensor", None)
    return t if held is None else held.detach()


def whole(t: Tensor) -> Tensor:
    """All rows of a parameter, as a tensor of its own; what is not divided as it is. Every process must ask at once."""
    if not is_divided(t):
        return t
    with torch.no_grad():
        gathered: Tensor = t.detach().full_tensor()  # type: ignore[attr-defined]
    return gathered


def share(values: Tensor, p: Tensor) -> Tensor:
    """The rows of `values` that this process holds of `p`, where they are all of them; else `values` as they are."""
    here = own(p)
    if values.shape != p.shape or here.shape == p.shape:
        return values
    rows, first = places(p)
    return values[first : first + rows]


def places(p: Tensor) -> tuple[int, int]:
    """How many rows of a divided parameter are held here, and which is the first."""
    mesh = p.device_mesh  # type: ignore[attr-defined]
    most = -(-p.shape[0] // mesh.size())
    return own(p).shape[0], min(most * int(mesh.get_local_rank()), p.shape[0])
