"""What claims of merges share: fine-tunings of one lab base on different tasks, made once, and any merged weights
scored on each.

The tasks are pictures of digits, changed in ways that one head can tell apart: the base knows them upright, a
fine-tuning learns one change. Fine-tunings go through the trials' store, so that all claims share them. Whatever a
merge chooses (its factor, its density, its coefficients) it chooses on validation rows; a claim gives every arm as many
choices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tunewright import catalogue
from tunewright.claims.claim_run import recipe_of
from tunewright.claims.lab import corpus, rows
from tunewright.claims.lab.overlay import merged
from tunewright.errors import ClaimError
from tunewright.weights.blocks import merge_in_memory, state_of
from tunewright.weights.learning import calibration, copy_with, over_rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun
    from tunewright.recipe import Recipe
    from tunewright.runs.session import Session

Tensors = dict[str, Tensor]
Choices = Sequence[Mapping[str, Any]]
BATCH = 64
"""Pictures a batch of what merges learn from: one that learns by gradients takes a step a batch."""
HELD = 50_000
"""The base saw the first of MNIST's training pictures; the tasks' rows are others."""


def _quadrants(x: np.ndarray) -> np.ndarray:
    return np.roll(x, (14, 14), axis=(1, 2))


def _striped(x: np.ndarray) -> np.ndarray:
    out = x.copy()
    out[:, ::4] = 255 - out[:, ::4]
    return out


def _tiled(x: np.ndarray) -> np.ndarray:
    return np.tile(x[:, ::2, ::2], (1, 2, 2))


def _sliced(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x[:, 1::2], x[:, ::2]], 1)


def _checkered(x: np.ndarray) -> np.ndarray:
    row, column = np.indices((28, 28)) // 7
    return np.where((row + column) % 2, 255 - x, x)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "turned": lambda x: np.rot90(x, 1, axes=(1, 2)),
    "inverted": lambda x: 255 - x,
    "quadrants": _quadrants,
    "striped": _striped,
    "tiled": _tiled,
    "mirrored": lambda x: x[:, :, ::-1],
    "sliced": _sliced,
    "checkered": _checkered,
}
"""Task -> what it does to pictures [n, 28, 28] uint8: none of them is what the base knows."""

TASKS = ("turned", "inverted", "quadrants", "striped")
"""The tasks of a claim that says nothing else."""


@cache
def rows_of(task: str, train: int = 2000) -> dict[str, str]:
    """Files of a task's pictures: train, validation (300), eval (400); each task's are its own.

    DataError without the data.
    """
    folder = corpus.data_folder() / "mnist"
    pictures, test = np.load(folder / "train.npz"), np.load(folder / "test.npz")
    at = HELD + 1000 * sorted(CHANGES).index(task)
    order = np.roll(np.arange(len(test["y"])), -1000 * sorted(CHANGES).index(task))[:400]
    indices = (
        np.arange(at, at + 300),
        (np.arange(at + 300, at + 300 + train) - HELD) % (len(pictures["y"]) - HELD) + HELD,
    )
    files = {}
    for part, source, index in (
        ("validation", pictures, indices[0]),
        ("train", pictures, indices[1]),
        ("eval", test, order),
    ):
        x, y = np.ascontiguousarray(CHANGES[task](source["x"][index])), source["y"][index]
        files[part] = rows.pictures(task, part, x, y)
    return files


def data_of(task: str, train: int = 2000) -> dict[str, Any]:
    """A recipe's `data` for a task."""
    files = rows_of(task, train)
    return {
        "train": [{"path": files["train"]}],
        "validation": [{"path": files["validation"]}],
        "eval": [{"path": files["eval"]}],
    }


def task_recipe(run: ClaimRun, arm: str, seed: int, task: str, train: int = 2000, **overlay: Any) -> Recipe:
    """An arm's recipe on one of the tasks, at the arm's rate; nothing is measured but the target."""
    plain = {**dict(run.task), "data": merged(run.task["data"], data_of(task, train)), "keep": []}
    return recipe_of(
        plain, run.claim, run.arm(arm), seed, run.rates.get(arm), {"measurement": {"strengths": [1.0]}, **overlay}
    )


def finished(run: ClaimRun, recipe: Recipe) -> Any:
    """The record of a run with its folder, from the store. ClaimError for one that did not finish."""
    record = run.engine.run_one(recipe, True)
    if record.status != "finished" or record.folder is None:
        raise ClaimError(
            f"a fine-tuning {record.status}: {record.error.message if record.error else 'no folder was kept'}",
            where=record.key,
        )
    return record


def tensors_of(folder: Path | str) -> Tensors:
    """A finished run's weights by name, the change folded in."""
    from tunewright.finished.finished import open_run

    run = open_run(folder)
    run.adapted.fold()
    return {n: t.clone() for n, t in state_of(run.adapted.model).items()}


def folder_of(run_folder: Path | str, tensors: Mapping[str, Tensor] | None = None, name: str = "model") -> str:
    """A plain transformers folder beside a finished run, with its weights or with these; made once for equal
    weights.
    """
    from tunewright.finished.finished import open_run
    from tunewright.loading.save import save_pretrained

    run = open_run(run_folder)
    run.adapted.fold()
    model: Any = run.adapted.model
    if tensors is not None:
        with torch.no_grad():
            for n, p in state_of(model).items():
                p.copy_(tensors[n])
    digest = hashlib.sha256(
        b"".join(t.contiguous().numpy().tobytes() for _, t in sorted(state_of(model).items()))
    ).hexdigest()[:16]
    target = Path(run_folder) / f"{name}-{digest}"
    if not target.is_dir():
        save_pretrained(model, run.tokenizer, target, {"name": name}, processor=run.loaded.processor)
    return str(target)


class Bench:
    """One seed's fine-tunings, the base, and a scale on which any weights are weighed."""

    def __init__(
        self, run: ClaimRun, seed: int, arm: str, tasks: Sequence[str] = TASKS, tuned: Sequence[str] | None = None
    ):
        from tunewright.runs.assemble import assemble

        self.tasks, self.seed, self.run = tuple(tasks), seed, run
        self.sessions: dict[str, Session] = {t: assemble(run.cut(task_recipe(run, arm, seed, t))) for t in tasks}
        first = self.sessions[self.tasks[0]]
        self.module = first.adapted.model
        self.base: Tensors = {n: t.clone() for n, t in state_of(self.module).items()}
        self.models = [tensors_of(finished(run, task_recipe(run, arm, seed, t)).folder) for t in (tuned or tasks)]
        self.at_base = self.scores(self.base)
        self.alone = {t: self.score(m, t) for t, m in zip(self.tasks, self.models, strict=False)}

    def score(self, tensors: Mapping[str, Tensor], task: str, part: str = "eval") -> float:
        """Accuracy of these weights on a task's eval or validation rows."""
        from tunewright.measure.target import evaluate

        session = self.sessions[task]
        rows = list((session.eval if part == "eval" else session.validation).rows)  # type: ignore[union-attr]
        model: Any = session.adapted.model
        with torch.no_grad():
            for name, p in state_of(model).items():
                p.copy_(tensors[name])
        outcomes = evaluate(model, session.tokenizer, session.task, rows, "accuracy")
        return sum(r.score for r in outcomes) / len(outcomes)

    def scores(self, tensors: Mapping[str, Tensor], part: str = "eval") -> dict[str, float]:
        """The same on every task."""
        return {t: self.score(tensors, t, part) for t in self.tasks}

    def mean(self, tensors: Mapping[str, Tensor], part: str = "eval") -> float:
        """Mean accuracy over the tasks."""
        return sum(self.scores(tensors, part).values()) / len(self.tasks)

    def rows(self, part: str = "validation", each: int | None = None) -> list[Any]:
        """Encoded rows of all tasks, mixed in turn."""
        parts = [
            list((s.validation if part == "validation" else s.stages[0].rows).rows)[:each]  # type: ignore[union-attr]
            for s in self.sessions.values()
        ]
        return [row for together in zip(*parts, strict=False) for row in together]

    def merge(
        self, name: str, models: Sequence[Tensors] | None = None, rows: Sequence[Any] | None = None, **parameters: Any
    ) -> Tensors:
        """A merge by its name in recipes, over the base; one that learns does so from `rows` (validation rows of
        all tasks).
        """
        method = catalogue.load_method(name)(**parameters)
        own = [copy_with(self.module, m) for m in models or self.models]
        session = self.sessions[self.tasks[0]]
        base = copy_with(self.module, self.base) if getattr(method, "base", "optional") != "none" else None
        chosen = self.rows() if rows is None else rows
        learning = over_rows(own, base, session.task, chosen, seed=self.seed)
        learning.batches = lambda samples: calibration(session.task, chosen, samples, self.seed, BATCH)
        tensors, config = merge_in_memory(method, learning)
        if config:
            raise ClaimError(f"'{name}' changed the model's shape, which is not weighed here: {config}")
        self.run.watch(name, tensors)
        return tensors

    def best(self, name: str, choices: Choices, **more: Any) -> tuple[float, dict[str, Any]]:
        """(mean accuracy on eval rows, the choice) of the parameters whose merge does best on validation rows; the
        first of equals.
        """
        weighed = []
        for i, chosen in enumerate(choices[: self.run.choices]):
            tensors = self.merge(name, **more, **chosen)
            weighed.append((self.mean(tensors, "validation"), -i, tensors, dict(chosen)))
        _, _, tensors, chosen = max(weighed, key=lambda w: w[:2])
        return self.mean(tensors), chosen


FACTORS = (0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 1.8)
"""Factors of the merged change that every arm may choose from."""
