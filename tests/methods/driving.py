"""Drives the loop over a tiny model, without files: what tests of single methods share."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests import tiny
from tunewright.contract.batch import Row
from tunewright.contract.combining import bind
from tunewright.contract.left import Earlier
from tunewright.contract.method import Method, Plan
from tunewright.contract.needs import NeedContext, Provider
from tunewright.models.adapted import Adapted
from tunewright.tasks import get_task
from tunewright.training.setting_up import set_up
from tunewright.training.stage import TrainingInputs
from tunewright.training.train import Loop, train


def text_rows(count: int = 24, source: str = "new", seed: int = 0, prompt: int = 2) -> list[Row]:
    """Rows of 5 to 12 random tokens whose first `prompt` tokens carry no loss."""
    rng = random.Random(f"{source}/{seed}")
    made = []
    for i in range(count):
        ids = [rng.randrange(8, 200) for _ in range(rng.randint(5, 12))]
        made.append(Row(f"{source}:{i}", source, ids, [0.0] * prompt + [1.0] * (len(ids) - prompt)))
    return made


def image_rows(count: int = 24, classes: int = 3, seed: int = 0) -> list[Row]:
    """Noisy 16 x 16 pictures, one plain colour a class."""
    rng = torch.Generator().manual_seed(seed)
    made = []
    for i in range(count):
        pixels = torch.randint(0, 80, (3, 16, 16), generator=rng)
        pixels[i % classes] += 150
        fields = {"pixels": pixels.to(torch.uint8).numpy(), "mean": [0.5] * 3, "std": [0.5] * 3, "scale": 1 / 255}
        made.append(Row(f"image:{i}", "image", (), [1.0], i % classes, fields))
    return made


class Cursor:
    """Rows of several sources, drawn by their weights with a generator of its own; each source keeps its own order."""

    def __init__(self, sources: Mapping[str, Sequence[Row]], size: int = 4, seed: int = 0):
        self.sources, self.size = {n: list(r) for n, r in sources.items()}, size
        self.weights: dict[str, float] = dict.fromkeys(sources, 1.0 / len(sources))
        self.at = dict.fromkeys(sources, 0)
        self.rng = random.Random(seed)
        self.seen: list[str] = []

    def next_batch(self) -> list[tuple[Row, int]]:
        names = list(self.sources)
        picked = self.rng.choices(names, [self.weights[n] for n in names], k=self.size)
        out = []
        for name in picked:
            rows = self.sources[name]
            epoch, place = divmod(self.at[name], len(rows))
            out.append((rows[place], epoch))
            self.at[name] += 1
            self.seen.append(rows[place].id)
        return out

    def state(self) -> dict[str, Any]:
        version, internal, gauss = self.rng.getstate()
        return {"at": dict(self.at), "weights": dict(self.weights), "rng": [version, list(internal), gauss]}

    def restore(self, state: dict[str, Any]) -> None:
        self.at, self.weights = dict(state["at"]), dict(state["weights"])
        version, internal, gauss = state["rng"]
        self.rng.setstate((version, tuple(internal), gauss))


def spec(**changes: Any) -> SimpleNamespace:
    """A resolved `train` section."""
    values: dict[str, Any] = {
        "micro_tokens": None,
        "seed": 0,
        "learning_rate": 1e-2,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
    }
    values |= {
        "optimizer": SimpleNamespace(name="adamw"),
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "activation_offloading": False,
        "momentum": 0.0,
    }
    return SimpleNamespace(**{**values, **changes})


class Run:
    """One stage of `methods` over a fresh tiny model, its records in `records`."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        *,
        model: Any = None,
        task: str = "text-generation",
        sources: Mapping[str, Sequence[Row]] | None = None,
        steps: int = 6,
        plan: Mapping[str, Any] | None = None,
        listen: Any = None,
        batch: int = 4,
        judges: Mapping[str, Any] | None = None,
        earlier: Earlier | None = None,
        changes: Any = None,
        **train_spec: Any,
    ):
        sources = sources or {"new": text_rows() if task == "text-generation" else image_rows()}
        self.adapted = model if isinstance(model, Adapted) else Adapted(model if model is not None else tiny.llama())
        self.methods = bind(list(methods.items()), 0, "main")
        self.cursor = Cursor(sources, batch)
        self.records: list[dict[str, Any]] = []
        self.task = get_task(task)
        self.plan = Plan(
            **{
                "steps": steps,
                "tokens": 10_000,
                "stage": "main",
                "index": 0,
                "learning_rate": 1e-2,
                "warmup_steps": 0,
                **(plan or {}),
            }
        )
        rows = [r for part in sources.values() for r in part]
        others: dict[str, Any] = {"other_names": tuple(judges), "as_judge": judges.get} if judges else {}
        self.provider = Provider(NeedContext(self.adapted, self.task, 0, {"train": rows}, changes=changes, **others))
        self.provider.check(self.methods)
        set_up(self.adapted, self.methods, self.plan, task, self.provider.statistics, earlier)

        def note(loop: Loop, record: dict[str, Any]) -> None:
            self.records.append(record)
            if listen:
                listen(loop)

        budget = SimpleNamespace(tokens=None, steps=None, seconds=None, flops=None, epochs=None)
        self.stage = TrainingInputs(
            self.adapted,
            self.task,
            self.methods,
            self.cursor,
            self.plan,
            spec(**train_spec),
            budget,
            self.provider.signals,
            note,
        )

    def train(self, resume: Any = None) -> Loop:
        return train(self.stage, resume)

    def state(self, name: str) -> Any:
        return next(b.state for b in self.methods if b.name == name)


def snapshot(loop: Loop) -> Any:
    """A copy of what `Loop.state` gives, safe from the steps that follow."""
    data, tensors = loop.state()
    return copy.deepcopy(data), {k: {n: t.clone() for n, t in v.items()} for k, v in tensors.items()}


def changed(loop: Loop) -> dict[str, Tensor]:
    """A copy of everything the stage has changed."""
    return {n: t.detach().clone() for n, t in loop.trained.changed().items()}


def assert_resumes(make: Any, at: int) -> None:
    """A run stopped after `at` steps and resumed ends bit for bit as one that was not.

    `make(listen)` gives a fresh Run.
    """
    kept: list[Any] = []
    whole = make(lambda loop: kept.append(snapshot(loop)) if loop.step_number == at else None)
    first = changed(whole.train())
    again = make(None)
    second = changed(again.train(kept[0]))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n], second[n]) for n in first), [
        n for n in first if not torch.equal(first[n], second[n])
    ]
    assert [r["loss"] for r in whole.records[at:]] == [r["loss"] for r in again.records]


def logits(model: torch.nn.Module, ids: Sequence[int] = range(10, 24)) -> Tensor:
    """[1, T, V] logits of a text model in eval mode."""
    with torch.no_grad():
        return model.eval()(torch.tensor([list(ids)])).logits
