"""What time and memory are made of, in numbers that come out again: how much a run computes, how much it keeps for its
way back. Seconds and peaks are other figures each time that they are taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WRITTEN, KEPT = "numbers written", "bytes kept for backward"


class _Written(TorchDispatchMode):
    """Counts the numbers that operations write; views and memory that is asked for empty write none."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func.name():
            self.count += sum(t.numel() for t in tree_leaves(out) if isinstance(t, Tensor))
        return out


@contextmanager
def weighed() -> Iterator[dict[str, float]]:
    """Filled when the block ends: numbers that operations in it wrote, bytes kept for backward passes."""
    work: dict[str, float] = {}
    kept = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with _Written() as written, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield work
    work |= {WRITTEN: float(written.count), KEPT: float(kept)}
