"""A loop on a tiny model without any files: what tests of methods and of the loop start from."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from tests import tiny
from tunewright.contract.batch import Row
from tunewright.contract.combining import bind
from tunewright.contract.method import Method, Plan
from tunewright.models.adapted import Adapted
from tunewright.tasks import get_task
from tunewright.training.setting_up import set_up
from tunewright.training.stage import TrainingInputs
from tunewright.training.train import Loop, train


class Rows:
    """Rows of random tokens, `per_step` a step, in a fixed order; the first two tokens of each are not trained."""

    def __init__(self, n: int = 40, per_step: int = 4, seed: int = 0):
        r = random.Random(seed)
        self.rows = []
        for i in range(n):
            ids = [r.randrange(5, 200) for _ in range(r.randint(5, 12))]
            self.rows.append(Row(f"r{i}", "s", ids, [0.0, 0.0] + [1.0] * (len(ids) - 2)))
        self.at, self.per_step = 0, per_step
        self.weights: dict[str, float] = {"s": 1.0}

    def next_batch(self) -> list[tuple[Row, int]]:
        out = [
            (self.rows[(self.at + k) % len(self.rows)], (self.at + k) // len(self.rows)) for k in range(self.per_step)
        ]
        self.at += self.per_step
        return out

    def state(self) -> dict[str, Any]:
        return {"at": self.at}

    def restore(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


def spec(**changes: Any) -> Any:
    """A resolved `train` section."""
    plain = {
        "micro_tokens": None,
        "seed": 0,
        "learning_rate": 1e-2,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.01,
        "momentum": 0.0,
        "optimizer": SimpleNamespace(name="adamw", params={}),
        "lr_scheduler_type": "linear",
        "max_grad_norm": 1.0,
        "activation_offloading": False,
    }
    return SimpleNamespace(**{**plain, **changes})


def stage(
    *methods: Method,
    model: nn.Module | None = None,
    steps: int = 6,
    task: str = "text-generation",
    rows: Any = None,
    needs: Any = None,
    signals: Any = None,
    **changes: Any,
) -> tuple[TrainingInputs, list[dict[str, Any]]]:
    """A stage whose methods are set up, and the list its records go to. Give `listen` to watch the loop."""
    adapted = Adapted(model if model is not None else tiny.llama())
    bound = bind([(type(m).__name__.lower(), m) for m in methods], 0, "main")
    plan = Plan(steps, 1000, "main", 0, 1e-2, 1)
    set_up(adapted, bound, plan, task, needs or (lambda b: {}))
    records: list[dict[str, Any]] = []
    budget = SimpleNamespace(tokens=None, steps=None, seconds=None, flops=None, epochs=None)
    made = TrainingInputs(
        adapted,
        get_task(task),
        bound,
        rows or Rows(),
        plan,
        spec(**changes),
        budget,
        listen=lambda loop, record: records.append(record),
    )
    if signals:
        made.signals = signals
    return made, records


def values(loop: Loop) -> dict[str, torch.Tensor]:
    """Copies of everything the loop has changed."""
    return {n: t.clone() for n, t in loop.trained.changed().items()}


def run(*methods: Method, **more: Any) -> tuple[Loop, list[dict[str, Any]]]:
    """Train a fresh stage to its end."""
    made, records = stage(*methods, **more)
    return train(made), records


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[n].double() - b[n].double()).abs().max()) for n in a if a[n].numel())
