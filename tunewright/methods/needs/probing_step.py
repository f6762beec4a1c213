"""probing_step: what a step of every tensor would take off the loss, tensor by tensor."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need, State
from tunewright.methods.needs.fisher import mean_loss

EPS = 1e-8


@dataclass(frozen=True)
class Probed:
    """`falls`: I by parameter name, nats; `slopes`: the same with g0 in g1's place, never below 0;
    `order`: the names as the model's forward comes to them.
    """

    falls: Mapping[str, float]
    slopes: Mapping[str, float]
    order: tuple[str, ...]


class ProbingStep(Need):
    """I = -<g1, dw> of every tensor of the base: dw = -rate g0 / (|g0| + eps), Adam's first step from the gradient g0;
    g1 the gradient after it, on the same rows.

    At the present weights, in evaluation mode; they have their bits again afterwards. Holds the model's gradient and a
    copy of its weights while it works. `state.data["rate"]` is the asking method's rate; rows are drawn anew at each
    drawing, by the seed and `state.data["probes"]`.
    """

    name: ClassVar[str] = "probing_step"
    when: ClassVar[Literal["once", "prepare", "batch", "redraw", "end"]] = "redraw"
    takes_gradients: ClassVar[bool] = True
    reads_state: ClassVar[bool] = True
    source: str = Field("train", description="rows to read")
    rows: PositiveInt = Field(8, description="rows of the batch")

    def check(self, run: Any) -> None:
        run.with_loss(self.source)

    def compute(self, run: Any, batch: Batch | None = None, state: State | None = None) -> Probed:
        assert state is not None
        rows, draw = run.source(self.source), state.data.get("probes", 0)
        rng = random.Random(f"{run.seed}/{self.name}/{self.source}/{draw}")
        made = run.task.collate(rng.sample(rows, min(self.rows, len(rows))), run.packed, seed=run.seed).to(run.device)
        parameters = run.adapted.base_parameters()
        with run.adapted.evaluating() as model, torch.enable_grad():
            order = in_order(model, list(parameters), lambda: mean_loss(run, made))
            return Probed(*falls(parameters, lambda: mean_loss(run, made), state.data["rate"]), order)


def falls(
    parameters: Mapping[str, nn.Parameter], loss: Callable[[], Tensor], rate: float
) -> tuple[dict[str, float], dict[str, float]]:
    """I by name, and with the gradient before the step; the parameters are as they were afterwards."""
    was = {n: (p.requires_grad, p.data) for n, p in parameters.items()}
    tensors = list(parameters.values())
    try:
        for p in tensors:
            p.requires_grad_(True)
        before = torch.autograd.grad(loss(), tensors, allow_unused=True)
        moves = [None if g is None else -rate * g / (g.abs() + EPS) for g in before]
        for p, move in zip(tensors, moves, strict=True):
            if move is not None:
                p.data = p.data + move.to(p.dtype)
        after = torch.autograd.grad(loss(), tensors, allow_unused=True)
    finally:
        for n, p in parameters.items():
            p.data = was[n][1]
            p.requires_grad_(was[n][0])
    found: list[dict[str, float]] = []
    for gradients in (after, before):
        both = zip(parameters, gradients, moves, strict=True)
        found.append({n: 0.0 if g is None or m is None else -float((g.float() * m.float()).sum()) for n, g, m in both})
    return found[0], found[1]


def in_order(model: nn.Module, names: list[str], run: Callable[[], Any]) -> tuple[str, ...]:
    """Parameter names in the order in which `run` first calls the modules that own them; what it never calls first."""
    calls: dict[str, int] = {}

    def heard(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls.setdefault(name, len(calls))

        return hook

    hooks = [m.register_forward_pre_hook(heard(n)) for n, m in model.named_modules()]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(sorted(names, key=lambda n: (calls.get(n.rpartition(".")[0], -1), names.index(n))))
