"""Training with weights that are divided among a run's processes (`models/divided.py`).

What trains of a divided tensor is, in each process, the rows that it holds: a leaf of its own with its own gradient
(summed over all processes as it is made) and optimizer state. What is saved is whole, so that a checkpoint or a stage
goes on in any number of processes, or in one that holds all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.models.adapted import Adapted
from tunewright.models.shards import is_divided, own, share

_KINDS = ("value:", "master:")
"""What stands before a parameter's name in `Trained.changed`, where the tensor is held as the parameter is."""


def gathered(adapted: Adapted, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name as they are saved: what this process holds a part of is whole in the first one, and in the others
    without numbers. Every process must ask at once.
    """
    if (parts := adapted.divided) is None:
        return dict(tensors)
    named = _divided(adapted)
    found = {}
    for key, values in tensors.items():
        p = named.get(_name(key))
        found[key] = values if p is None or values.shape != own(p).shape else parts.gathered(values, p)
    return found


def shares(adapted: Adapted, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What this process holds of tensors that `gathered` made whole, or that were never divided."""
    named = _divided(adapted)
    return {key: t if (p := named.get(_name(key))) is None else share(t, p).clone() for key, t in tensors.items()}


def _divided(adapted: Adapted) -> dict[str, nn.Parameter]:
    return {n: p for n, p in adapted.base_parameters().items() if is_divided(p)}


def _name(key: str) -> str:
    """The parameter that a saved tensor belongs to: of "value:NAME", "NAME|exp_avg" and NAME itself."""
    for kind in _KINDS:
        key = key.removeprefix(kind)
    return key.partition("|")[0]


def turns(loop: Any, batches: Sequence[Any]) -> list[tuple[int, Any, float]]:
    """(place, micro-batch, 1) of this process's; where weights are divided, others have more and it runs the model as
    often as these, (place, micro-batch, 0) of one whose loss counts elsewhere.
    """
    group = loop.group
    mine = [(place, batch, 1.0) for place, batch in group.share(batches)]
    if loop.adapted.divided is not None:
        idle = math.ceil(len(batches) / group.size) - len(mine)
        mine += [(len(batches) + group.rank, batches[0], 0.0)] * idle
    return mine


def outside(loop: Any) -> AbstractContextManager[None]:
    """Inside, a forward and its backward find together what lies outside the blocks, as a head used past the model."""
    parts = loop.adapted.divided
    return nullcontext() if parts is None else parts.together()


def clip(loop: Any, limit: float) -> float:
    """Scale the leaves' gradients so that together they are no longer than `limit`; gives their 2-norm before."""
    leaves = [leaf for leaf in loop.trained.leaves.values() if leaf.leaf.grad is not None]
    parameters = [leaf.leaf for leaf in leaves]
    if not any(leaf.divided for leaf in leaves):
        return float(nn.utils.clip_grad_norm_(parameters, limit)) if parameters else 0.0
    here = torch.zeros((), dtype=torch.float64)
    alike = torch.zeros((), dtype=torch.float64)
    for leaf in leaves:
        square = leaf.leaf.grad.double().square().sum().cpu()
        (here if leaf.divided else alike).add_(square)
    loop.group.sum([here])
    norm = (here + alike).sqrt()
    nn.utils.clip_grads_with_norm_(parameters, limit, norm.float().to(parameters[0].device))
    return float(norm)


def not_finite(loop: Any) -> str:
    """The first leaf whose gradient is not finite in some process; "?" where none is."""
    here = next((n for n, g in loop.trained.gradients().items() if not bool(torch.isfinite(g).all())), "?")
    if loop.adapted.divided is None:
        return here
    return next((one["bad"] for one in loop.group.told({"bad": here}) if one["bad"] != "?"), "?")
