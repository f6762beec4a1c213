"""From gradients to moved weights: gradient methods, clipping, the optimizer, update methods, averages."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tunewright.contract.batch import Row
from tunewright.errors import NonFiniteError
from tunewright.training import divided

R = TypeVar("R")


@dataclass
class Due:
    """A step whose gradients are still to come: its rows with their epochs, what is logged of them, the schedule's
    factor, the learning rate, and the seconds that the step took so far.
    """

    rows: Sequence[tuple[Row, int]]
    told: dict[str, float]
    factor: float | dict[str, float]
    rate: float
    seconds: float


def go_through(steps: Generator[Any, None, R]) -> R:
    """Go through what pauses where a loop's step is due, and do each step at once; gives what it returns.

    A step's error is raised where the pause is, so that what was begun around the steps is ended there.
    """
    try:
        loop = next(steps)
        while True:
            try:
                loop.done = loop.one_step()
            except BaseException as error:
                loop = steps.throw(error)
            else:
                loop = next(steps)
    except StopIteration as end:
        value: R = end.value
        return value


def apply(loop: Any, factor: float | Mapping[str, float], record: dict[str, Any]) -> None:
    """Gradient methods, clipping, the optimizer's step, update methods."""
    if loop.methods.on("gradient"):
        changed = loop.methods.chain(
            "gradient",
            "gradients",
            loop.trained.gradients(),
            parameters={n: p.detach() for n, p in loop.trained.parameters().items()},
            step=loop.step_number,
            plan=loop.plan,
        )
        for n, leaf in loop.trained.parameters().items():
            gradient = changed.get(n)
            leaf.grad = gradient if gradient is None else gradient.to(leaf.dtype)
    parameters = loop.trained.parameters()
    norm = divided.clip(loop, loop.spec.max_grad_norm or math.inf)
    record["grad_norm"] = norm
    loop.pulled = loop.pulled or norm > 0 or not parameters
    if not math.isfinite(norm):
        raise NonFiniteError(
            f"the gradient of '{divided.not_finite(loop)}' is not finite",
            where=f"step {loop.step_number + 1}",
            remedy="lower train.learning_rate, or set train.max_grad_norm",
        )
    proposing = loop.methods.on("update") or isinstance(factor, Mapping)
    before = {n: p.detach().clone() for n, p in parameters.items()} if proposing else {}
    loop.optimizers.step()
    if proposing:
        _propose(loop, before, parameters, factor)
    loop.trained.write_back()
    if loop.averaged is not None:
        for b in loop.methods.on("average"):
            loop.averaged = loop.methods.call(
                b, "average", averaged=loop.averaged, parameters=parameters, step=loop.step_number, plan=loop.plan
            )
    loop.trained.zero_grad()


def _propose(
    loop: Any, before: dict[str, Tensor], parameters: dict[str, nn.Parameter], factor: float | Mapping[str, float]
) -> None:
    with torch.no_grad():
        changes = {n: p - before[n] for n, p in parameters.items()}
        if isinstance(factor, Mapping):
            # both optimizers' steps are proportional to the rate, so scaling the step is scaling the rate
            common = factor.get("", 1.0)
            changes = {n: c * (factor.get(n, common) / common) for n, c in changes.items()}
        for n, p in parameters.items():
            p.copy_(before[n])  # methods see the weights that the change is proposed for
        changes = loop.methods.chain(
            "update",
            "changes",
            changes,
            parameters=before,
            validation=loop.validation,
            step=loop.step_number,
            plan=loop.plan,
        )
        for n, p in parameters.items():
            p.copy_(before[n] + changes[n])
