"""A task under test: tiny things that are its like, written where a run reads them, and what a check of it is."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from tunewright.conformance.bench import seeded
from tunewright.contract.batch import Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.data.read import read_all
from tunewright.data.shapes import canonical
from tunewright.data.tables import as_cells
from tunewright.loading.load import Loaded
from tunewright.recipe import Recipe, Source
from tunewright.runs.assemble import assemble
from tunewright.runs.session import Session
from tunewright.runs.sources import as_this_table
from tunewright.tasks import get_task
from tunewright.tasks._parts import TABULAR

TRAIN, TEST, RECIPE = "train.jsonl", "test.jsonl", "recipe.yaml"


@dataclass(frozen=True)
class TaskExample:
    """What a task is checked on: a tiny model, what reads its inputs, and rows as a user writes them.

    `model()`: a freshly drawn model of the task's `auto_class` (the suite seeds it). `reader`: its tokenizer, image
    processor or what else reads its inputs. `rows`: eight or more that can be learnt in some steps, of different
    lengths; the last three are measured on. `bad`: what is wrong -> (row, the field that is named). `labels`: the
    classes, in the head's order. `right(row)`: what is right of a row, as the text that metrics compare.
    `figure(pairs)`: the headline metric over (answer, reference) pairs, counted in another way than the task's metric
    does. `files(folder)` writes what rows name. `learning_rate` and `steps` are those of the run.
    """

    model: Callable[[], Any]
    reader: Any
    rows: Sequence[Mapping[str, Any]]
    bad: Mapping[str, tuple[Mapping[str, Any], str]] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    right: Callable[[Mapping[str, Any]], str] | None = None
    figure: Callable[[Sequence[tuple[str, str]]], float] | None = None
    files: Callable[[Path], None] | None = None
    learning_rate: float = 0.02
    steps: int = 12


class TaskCase:
    """A task with its example, in a folder of its own that goes with it. `task`: another object than the name gives."""

    def __init__(self, name: str, example: TaskExample, task: Task | None = None):
        self.name, self.example = name, example
        self.task: Task = task if task is not None else get_task(name)

    @cached_property
    def _held(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="tunewright-task-")

    @cached_property
    def folder(self) -> Path:
        """A folder with base/, train.jsonl, test.jsonl and recipe.yaml."""
        folder, example = Path(self._held.name), self.example
        model: Any = seeded(example.model)
        if example.labels is not None:
            model.config.id2label = dict(enumerate(example.labels))
            model.config.label2id = {label: i for i, label in enumerate(example.labels)}
        model.save_pretrained(folder / "base")
        example.reader.save_pretrained(folder / "base")
        if example.files is not None:
            example.files(folder)
        write_rows(folder / TRAIN, example.rows[:-3])
        write_rows(folder / TEST, example.rows[-3:])
        (folder / RECIPE).write_text(json.dumps(self.recipe_tree()), encoding="utf-8")  # JSON is YAML too
        return folder

    def recipe_tree(self) -> dict[str, Any]:
        data: dict[str, Any] = {"train": TRAIN, "eval": TEST, "max_length": 64}
        if self.example.labels is not None and self.task.labelled:
            data["labels"] = list(self.example.labels)
        train = {"learning_rate": self.example.learning_rate, "batch_tokens": 64, "precision": "float32", "threads": 1}
        return {
            "model": "./base",
            "task": self.name,
            "data": data,
            "methods": [{"lora": {"rank": 4}}],
            "train": {**train, "device": "cpu", "save_steps": 4},
            "budget": {"steps": self.example.steps},
            "measurement": {
                "drift_sequences": 2,
                "drift_tokens": 8,
                "max_new_tokens": 6,
                "few_shot": 0,
                "strengths": [1],
            },
        }

    def recipe(self, **changes: Any) -> Recipe:
        """The recipe; `data__train="other.jsonl"` changes a value."""
        sets = [f"{name.replace('__', '.')}={json.dumps(value)}" for name, value in changes.items()]
        return Recipe.load(self.folder / RECIPE, sets)

    @cached_property
    def session(self) -> Session:
        """The recipe's parts as a run has them: model, reader, options."""
        return assemble(self.recipe())

    @property
    def loaded(self) -> Loaded:
        return self.session.loaded

    @property
    def model(self) -> Any:
        return self.session.adapted.model.eval()

    @property
    def reader(self) -> Any:
        return self.loaded.tokenizer if self.loaded.tokenizer is not None else self.loaded.processor

    @property
    def options(self) -> EncodeOptions:
        return self.session.options

    @cached_property
    def records(self) -> list[Record]:
        """The example's rows as a task is given them: columns recognised, ids and places known."""
        recipe = self.recipe()
        sources = [as_this_table(recipe, Source(path=name)) for name in (TRAIN, TEST)]
        return [r for source in sources for r in read_all(source, self.folder).records]

    @cached_property
    def rows(self) -> list[Row]:
        return [self.task.encode(record, self.reader, self.options) for record in self.records]

    def bad_record(self, what: str) -> Record | RowProblem:
        """A bad row as a task is given it, or what its shape says against it."""
        row, _ = self.example.bad[what]
        try:
            values = as_cells(row, {}, None) if self.task.name in TABULAR else canonical(row, {})[0]
        except RowProblem as problem:
            return problem
        return Record(values, id="bad", where="bad.jsonl:1", source="bad", base=str(self.folder))

    def outputs(self, rows: Sequence[Row], packed: bool = False, **how: Any) -> tuple[Any, Any]:
        """(batch, outputs) of rows, in evaluation mode and without gradients."""
        batch = self.task.collate(rows, packed, **how)
        with torch.no_grad():
            return batch, self.task.forward(self.model, batch)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
