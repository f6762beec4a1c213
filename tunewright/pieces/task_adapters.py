"""An adapter for each task behind every block, of which one speaks at a time: what `mos` and `ease` share.

    h <- h + U gelu(D h + b) + c,  D [a, d], U [d, a]; D uniform in +-1/sqrt(d), the rest zero: it starts as the base

Each task is a stage that starts from the one before with `carry: frozen`; adapters of earlier tasks stay as they are.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from tunewright.contract.method import torch_generator
from tunewright.errors import MethodError
from tunewright.models.deltas import Bottleneck, deltas_of, rename, set_frozen
from tunewright.models.experts import expert
from tunewright.models.sites import Site, Structure


def adapter_name(method: str, task: int) -> str:
    """What a task's adapters are called, behind the names of the stages that carried them."""
    return f"{method}-{task}"


def adapter_names(method: str, tasks: int) -> list[str]:
    """Those of the first tasks, in order."""
    return [adapter_name(method, t) for t in range(tasks)]


def check_blocks(structure: Structure, method: str) -> None:
    """MethodError for a model without blocks of linear layers."""
    if not structure.whole:
        raise MethodError(
            f"{method} hangs its adapters behind blocks of linear layers, and this model has none",
            where="model",
            remedy="use a transformer, such as nano-vit",
        )


def own_adapter(site: Site, width: int, rng: random.Random) -> Bottleneck | None:
    """The adapter of a block, None for another site."""
    if site.kind != "block":
        return None
    adapter = Bottleneck.rebuild({"width": width}, site)
    bound = site.out_features**-0.5
    adapter.down.data.uniform_(-bound, bound, generator=torch_generator(rng))
    return adapter


def began(structure: Structure, method: str, owners: Sequence[int], complete: bool) -> int:
    """The task that begins, from 0: its adapters take its name, and those of earlier tasks are silent and frozen.

    `owners`: the task of each class that is known. MethodError where the model brings adapters of other tasks than
    those, unless stages have yet to train (`complete` is False).
    """
    task = next(t for t in itertools.count() if not expert(structure, adapter_name(method, t)))
    known = 1 + max(owners, default=-1)
    if task and known != task and complete:
        raise MethodError(
            f"the model brings the adapters of {task} tasks, and what {known} of them left of their classes is known",
            where="start",
            remedy="make all tasks stages of one run",
        )
    for site in structure.whole:
        if method in deltas_of(site):
            rename(site, method, adapter_name(method, task))
    for name in adapter_names(method, task):
        for delta in expert(structure, name):
            delta.strength = 0.0
            for p in delta.parameters():
                set_frozen(p, True)
    return task
