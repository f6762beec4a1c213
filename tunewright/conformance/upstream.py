"""Changes of other tasks, as a method that draws from them is given on the tiny set-up."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from tunewright.contract.change import Change
from tunewright.contract.method import torch_generator
from tunewright.models.adapted import Adapted


def upstream(adapted: Adapted, names: Sequence[str], tasks: int = 4, rank: int = 2) -> list[Change]:
    """Low-rank changes of so many tasks for each name, of every linear layer inside blocks, drawn from the name."""
    found = []
    for name in (f"{n}/{i}" for n in names for i in range(tasks)):
        generator = torch_generator(random.Random(f"upstream/{name}"))
        sites = [s for s in adapted.structure.sites if s.kind == "linear" and s.block is not None]
        sizes = {s.name: ((rank, s.in_features), (s.out_features, rank)) for s in sites}
        pairs = {n: [0.3 * torch.randn(size, generator=generator) for size in both] for n, both in sizes.items()}
        found.append(Change(name, {n: (A, B) for n, (A, B) in pairs.items()}))
    return found
