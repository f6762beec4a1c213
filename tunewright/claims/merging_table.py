"""Every merge method on the same fine-tunings of one small base: the figures of docs/merging.md.

For each seed the lab's ViT learns eight changes of digits, one per model. Every merge of the catalogue then makes one
model of the first two, three, five and all eight. Whatever a method leaves to the user is one setting here, chosen
among five by mean accuracy on validation rows; methods that learn do so from the same rows. Judged on other rows.

Figures are kept cell by cell (seed, number of models, method) with a hash of what made them, so that it may be stopped
anywhere; `python -m tunewright.claims.merging_page` runs it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewright import catalogue
from tunewright.claims import merging
from tunewright.claims.claim import Arm, Claim
from tunewright.claims.claim_run import ClaimRun, recipe_of
from tunewright.claims.engine import Engine, Search
from tunewright.claims.lab import corpus
from tunewright.claims.lab.vit import pixels
from tunewright.claims.merging import BATCH, CHANGES, Tensors, data_of, finished, rows_of, task_recipe, tensors_of
from tunewright.errors import ClaimError
from tunewright.files import source
from tunewright.files.cache import cache_folder, write_json
from tunewright.trials.trial_key import method_source
from tunewright.weights.blocks import merge_in_memory, state_of
from tunewright.weights.learning import calibration, copy_with, over_rows
from tunewright.weights.merge.model_soups import greedy

COUNTS = (2, 3, 5, 8)
ROWS = 100
"""Validation rows per task, for every choice and for what learns."""
FACTORS = (0.15, 0.3, 0.6, 1.0, 1.6)
JOINT = "joint training"
TUNED = Arm(name="full", methods=["full"])
CARRIER = Claim(
    paper="task-arithmetic",
    says="no claim: fine-tunings to merge",
    task="digits",
    method=TUNED,
    metric="measured",
    direction="higher",
    smallest=0,
)

Choices = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Way:
    """How a method is used: `choices(number of models)` to choose from on validation rows, `chosen` says what
    varies.
    """

    chosen: str
    choices: Callable[[int], Choices]
    models: tuple[int, ...] = COUNTS
    learns: bool = False


def _factor(**fixed: Any) -> Way:
    return Way("factor of the change", lambda n: [{**fixed, "lambda": f} for f in FACTORS])


def _nothing() -> Way:
    return Way("nothing", lambda n: [{}])


WAYS: dict[str, Way] = {
    "linear": _nothing(),
    "fusing-finetuned-models": _nothing(),
    "model-stock": _nothing(),
    "model-soups": Way("which models are averaged (greedy)", lambda n: [{}]),
    "multi-slerp": Way("factor of the change", lambda n: [{"normalize_weights": False, "weight": f} for f in FACTORS]),
    "slerp": Way("place on the arc", lambda n: [{"t": t} for t in (0.3, 0.4, 0.5, 0.6, 0.7)], models=(2,)),
    "task-arithmetic": _factor(),
    "ties": _factor(),
    "model-breadcrumbs": _factor(),
    "breadcrumbs-ties": _factor(),
    "dare-linear": _factor(),
    "dare-ties": _factor(),
    "della": _factor(),
    "della-linear": _factor(),
    "regmean": Way(
        "factor off the diagonal",
        lambda n: [{"scale": s, "samples": n * ROWS} for s in (0.0, 0.5, 0.8, 0.9, 1.0)],
        learns=True,
    ),
    "pleas": Way(
        "ridge",
        lambda n: [{"ridge": r, "samples": n * ROWS} for r in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)],
        models=(2,),
        learns=True,
    ),
    "atlas": Way(
        "learning rate",
        lambda n: [
            {"learning_rate": r, "epochs": 5, "samples": min(n, 5) * ROWS, "start": 1 / n}
            for r in (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
        ],
        learns=True,
    ),
}
"""Merges of the catalogue -> how they are used. Fields that are not named have their defaults, the papers'."""


class Fleet:
    """One seed's fine-tunings of the base, one per task, and what weighs any weights of their shape."""

    def __init__(self, run: ClaimRun, seed: int):
        from tunewright.runs.assemble import assemble

        self.run, self.seed, self.tasks = run, seed, tuple(CHANGES)
        records = [finished(run, task_recipe(run, TUNED.name, seed, t)) for t in self.tasks]
        self.keys = [r.key for r in records]
        self.models = [tensors_of(r.folder) for r in records]
        sessions = [assemble(task_recipe(run, TUNED.name, seed, t)) for t in self.tasks]
        self.task, self.module = sessions[0].task, sessions[0].adapted.model.eval()
        self.learn_from = [list(s.validation.rows)[:ROWS] for s in sessions]  # type: ignore[union-attr]
        self.base: Tensors = {n: t.clone() for n, t in state_of(self.module).items()}
        self.rows = {
            (t, part): _pictures(rows_of(t)[part], most)
            for t in self.tasks
            for part, most in (("validation", ROWS), ("eval", None))
        }
        self.upright = _upright()
        self.at_base = self.logits(self.upright[0])

    def put(self, tensors: Mapping[str, Tensor]) -> None:
        """Give the module these weights."""
        with torch.no_grad():
            for name, p in state_of(self.module).items():
                p.copy_(tensors[name])

    def logits(self, x: Tensor) -> Tensor:
        """[rows, classes] of the module as it is now, for pixels [rows, 1, 28, 28]."""
        model: Any = self.module
        with torch.inference_mode():
            return torch.cat([model(pixel_values=x[i : i + 200]).logits for i in range(0, len(x), 200)])

    def accuracies(self, tensors: Mapping[str, Tensor], count: int, part: str) -> list[float]:
        """On the first `count` tasks, task by task."""
        self.put(tensors)
        return [_accuracy(self.logits(x), y) for x, y in (self.rows[t, part] for t in self.tasks[:count])]

    def weigh(self, tensors: Mapping[str, Tensor], count: int) -> dict[str, Any]:
        """Scores on eval rows; on upright digits the mean KL(base || merged) in nats a picture, and the accuracy."""
        scores = self.accuracies(tensors, count, "eval")
        now = self.logits(self.upright[0])
        kl = torch.nn.functional.kl_div(
            now.log_softmax(-1), self.at_base.log_softmax(-1), reduction="batchmean", log_target=True
        )
        return {"scores": scores, "drift": float(kl), "kept": _accuracy(now, self.upright[1])}

    def merge(self, name: str, count: int, parameters: Mapping[str, Any]) -> tuple[Tensors, float]:
        """(a merge of the first `count` models, seconds of one core for it): what it learns included, copies of the
        models not.
        """
        method = catalogue.load_method(name)(**parameters)
        rows = [row for together in zip(*self.learn_from[:count], strict=True) for row in together]
        models = [copy_with(self.module, m) for m in self.models[:count]]
        base = copy_with(self.module, self.base) if getattr(method, "base", "optional") != "none" else None
        learning = over_rows(models, base, self.task, rows, seed=self.seed)
        learning.batches = lambda samples: calibration(self.task, rows, samples, self.seed, BATCH)
        began = time.process_time()
        tensors, config = merge_in_memory(method, learning)
        if config:
            raise ClaimError(f"'{name}' changed the model's shape, which is not weighed here: {config}")
        return tensors, time.process_time() - began

    def best(self, name: str, count: int) -> dict[str, Any]:
        """The cell of a method: the choice that does best on validation rows (the first of equals), judged on eval
        rows.
        """
        way, tried = WAYS[name], []
        for i, parameters in enumerate(way.choices(count)):
            tensors, seconds = self.soup(count) if name == "model-soups" else self.merge(name, count, parameters)
            tried.append((_mean(self.accuracies(tensors, count, "validation")), -i, tensors, seconds, dict(parameters)))
        score, at, tensors, seconds, chosen = max(tried, key=lambda t: t[:2])
        edge = len(tried) > 1 and -at in (0, len(tried) - 1)
        return {
            **self.weigh(tensors, count),
            "chosen": chosen,
            "at_edge": edge,
            "validation": score,
            "seconds": round(seconds, 4),
        }

    def soup(self, count: int) -> tuple[Tensors, float]:
        """The greedy soup: models are added while the mean validation accuracy does not fall; seconds of its
        average alone.
        """

        def made(indices: Sequence[int]) -> Tensors:
            return {n: torch.stack([self.models[i][n] for i in indices]).mean(0) for n in self.base}

        picked = greedy(count, lambda indices: _mean(self.accuracies(made(indices), count, "validation")))
        began = time.process_time()
        return made(picked), time.process_time() - began

    def joint(self, count: int) -> dict[str, Any]:
        """One model fine-tuned on the rows of all tasks together, as many rows as the separate ones saw in all."""
        together = {"train": [s for t in self.tasks[:count] for s in data_of(t)["train"]]}
        record = finished(self.run, task_recipe(self.run, TUNED.name, self.seed, self.tasks[0], data=together))
        return self.weigh(tensors_of(record.folder), count)


def _pictures(file: str, most: int | None) -> tuple[Tensor, Tensor]:
    stored = np.load(file)
    return pixels(stored["x"][:most]), torch.from_numpy(stored["y"][:most].astype(np.int64))


def _upright() -> tuple[Tensor, Tensor]:
    """The last 400 test pictures as the base knows them."""
    test = np.load(corpus.data_folder() / "mnist" / "test.npz")
    return pixels(test["x"][-400:]), torch.from_numpy(test["y"][-400:].astype(np.int64))


def _accuracy(logits: Tensor, y: Tensor) -> float:
    return float((logits.argmax(-1) == y).float().mean())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def code_of(name: str) -> str:
    """A hash of a method's source and of this measuring."""
    here = [Path(__file__), Path(merging.__file__), Path(merging.__file__).parent.parent / "weights" / "blocks.py"]
    return hashlib.sha256(f"{method_source(name)} {source.plain_of(here)}".encode()).hexdigest()[:16]


def run(
    engine: Engine,
    path: Path,
    seeds: int,
    task: Mapping[str, Any],
    *,
    joint: bool = True,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Fill the file of figures: cells that are there from the same fine-tunings and the same code stay.

    Returns what it holds.
    """
    carrier = ClaimRun(CARRIER, "nano", task, engine, cache_folder() / "claims" / "merging")
    search = {TUNED.name: Search(lambda rate, seed: recipe_of(task, CARRIER, TUNED, seed, rate), CARRIER.rates)}
    carrier.rates = {n: t.rate for n, t in engine.tune(search, lambda record: None).items()}
    figures = read(path)
    figures.update(
        tasks=list(CHANGES), rate=carrier.rates[TUNED.name], validation_rows=ROWS, machine=describe_machine()
    )
    for seed in range(seeds):
        fleet = Fleet(carrier, seed)
        ends = {
            "base": fleet.weigh(fleet.base, len(fleet.tasks)),
            "alone": [fleet.accuracies(m, i + 1, "eval")[i] for i, m in enumerate(fleet.models)],
        }
        figures["seeds"][str(seed)] = ends
        for count, name in _cells(joint):
            key = hashlib.sha256(
                f"{fleet.keys[:count]} {code_of(name)} {WAYS[name].choices(count) if name in WAYS else ''}".encode()
            ).hexdigest()[:16]
            place = f"{seed}/{count}/{name}"
            if figures["cells"].get(place, {}).get("key") == key:
                continue
            cell = fleet.joint(count) if name == JOINT else fleet.best(name, count)
            figures["cells"][place] = {**cell, "key": key}
            write_json(path, figures)
            say(
                f"{place}: {_mean(cell['scores']):.3f}, worst {min(cell['scores']):.3f}, drift "
                f"{cell['drift']:.3f}, "
                f"{cell.get('chosen', '')}"
            )
    write_json(path, figures)
    return figures


def _cells(joint: bool) -> Iterator[tuple[int, str]]:
    for count in COUNTS:
        yield from ((count, name) for name, way in WAYS.items() if count in way.models)
    if joint:
        yield from ((count, JOINT) for count in COUNTS)


def read(path: Path) -> dict[str, Any]:
    """The file of figures; an empty one where there is none."""
    empty: dict[str, Any] = {
        "tasks": [],
        "rate": None,
        "validation_rows": ROWS,
        "machine": {},
        "seeds": {},
        "cells": {},
    }
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else empty


def describe_machine() -> dict[str, str]:
    """What the seconds were taken on."""
    import platform

    import transformers

    return {
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
