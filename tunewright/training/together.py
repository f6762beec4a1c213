"""What the processes of a run do for one another in a step: micro-batches shared out, gradients and figures summed.

Every process goes through the same steps, and holds the whole model unless its weights are divided (`divided.py`). Of a
step's micro-batches each takes every n-th; the sums of gradients, losses and logs over all are then each one's, so that
optimizers, penalties and methods on gradients see what a single process would, and every process moves its weights
alike, to the bit. What depends on the whole batch at once (`coupled`) is computed by each alike, as are generation,
statistics and what methods ask beside the step's loss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from tunewright.contract.batch import Batch
from tunewright.errors import MethodError
from tunewright.machine.group import Group
from tunewright.models.flops import uncounted
from tunewright.training import divided

OFTEN, THEN = 3, 100
"""Whether the processes still agree is asked after each of the first steps, and then after every so many."""


def shared_out(loop: Any, batches: list[Batch], record: dict[str, Any], total: Tensor) -> Iterator[tuple[Batch, float]]:
    """The micro-batches that are this process's, each with how often its loss counts here: once, or not at all
    (`divided.turns`). Once it has gone through them, gradients, `total` and what was added to `record` are sums over
    all processes. Each micro-batch has a dropout of its own, whoever computes it.
    """
    group: Group = loop.group
    if not group.many:
        yield from ((batch, 1.0) for batch in batches)
        return
    kept = {n: leaf.leaf.grad for n, leaf in loop.trained.leaves.items()}
    loop.trained.zero_grad()
    known, seed = set(record), int(torch.randint(1 << 62, ()))
    after = loop.randomness.now()
    for place, batch, counts in divided.turns(loop, batches):
        torch.manual_seed((seed + place) % (1 << 63))
        with nullcontext() if counts else uncounted(), divided.outside(loop):
            yield batch, counts
    loop.randomness.again(after)
    _sum_gradients(loop, kept)
    group.sum([total])
    told = group.told({k: float(v) for k, v in record.items() if k not in known})
    for one in told:
        for name in one:
            record[name] = sum(other.get(name, 0.0) for other in told)


def _sum_gradients(loop: Any, kept: dict[str, Tensor | None]) -> None:
    """Sum the leaves' gradients over all processes, but for those that were summed as they were made, and add what each
    had before.
    """
    group = loop.group
    leaves = {n: leaf for n, leaf in loop.trained.leaves.items() if not leaf.divided}
    there = torch.tensor([float(leaf.leaf.grad is not None) for leaf in leaves.values()])
    group.sum([there])
    found = [leaf.leaf for leaf, any_ in zip(leaves.values(), there.tolist(), strict=True) if any_]
    for leaf in found:
        leaf.grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.contiguous()
    group.sum([leaf.grad for leaf in found])
    for name, before in kept.items():
        if before is not None:
            own = loop.trained.leaves[name].leaf
            own.grad = before if own.grad is None else own.grad + before


def sum_of(group: Group, value: float) -> float:
    """A number of this process, summed over all."""
    return sum(float(one["value"]) for one in group.told({"value": value})) if group.many else value


def largest(group: Group, value: float) -> float:
    """The largest of a number that each process has: what a budget of time is spent by."""
    return max(float(one["value"]) for one in group.told({"value": value})) if group.many else value


def begin_alike(loop: Any) -> None:
    """Let every process begin with the first one's trained weights and states of methods."""
    if not loop.group.many:
        return
    with torch.no_grad():
        loop.group.from_first([leaf.leaf for leaf in loop.trained.leaves.values() if not leaf.divided])
        loop.group.from_first([t for _, t in _held(loop)])
    loop.trained.write_back()


def check_alike(loop: Any) -> None:
    """MethodError where something that trains, or that a method keeps, is no longer the same in every process."""
    step = loop.step_number
    if not loop.group.many or (step > OFTEN and step % THEN):
        return
    alike = {n: leaf.leaf for n, leaf in loop.trained.leaves.items() if not leaf.divided} | dict(_held(loop))
    kept = {n: _digest(t) for n, t in alike.items()}
    told = loop.group.told(kept)
    if other := next((n for n in kept if any(one.get(n) != told[0].get(n) for one in told)), None):
        raise MethodError(
            f"'{other}' is not the same in all {loop.group.size} processes after step {step}",
            where=f"'{other.split('.')[0]}'",
            remedy="a method that keeps what it sees of a batch declares `ranks = False`; run it in one process",
        )


def _held(loop: Any) -> list[tuple[str, Tensor]]:
    """Tensors that methods keep, by name, without those that train."""
    return [(f"{b.name}.{n}", t) for b in loop.methods for n, t in b.state.named_buffers()]


def _digest(tensor: Tensor) -> str:
    held = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(held.tobytes(), digest_size=16).hexdigest()
