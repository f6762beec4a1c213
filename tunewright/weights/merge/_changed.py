"""Which entries models changed, for merges that treat an entry by how many of them moved it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def changed(base: Tensor, tensors: Sequence[Tensor], epsilon: float) -> tuple[Tensor, Tensor]:
    """(changes, 0 where within epsilon; how many models changed each entry): [models, ...] and a change's shape."""
    changes = torch.stack([t - base for t in tensors])
    moved = changes.abs() > epsilon
    return changes * moved, moved.sum(0)
