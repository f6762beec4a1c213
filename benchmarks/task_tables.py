"""The runs of the tasks of tables for docs/tasks.md, on tables that scikit-learn carries.

tabular-classification: whether a breast tumour is malignant (Wolberg et al. 1993) by the ten means of its cells'
features. tabular-regression: how diabetes progressed within a year (Efron et al. 2004) by age, sex, measures and six
blood values. Both by MiniLM-L6, which has read sentences and no tables, with numbers as quantile bins; gradient-boosted
trees stand beside it.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sklearn.datasets import load_breast_cancer, load_diabetes

from tunewright.tasks._parts import CLASSES_OF_TABLES, NUMBERS_OF_TABLES

TASKS = (CLASSES_OF_TABLES, NUMBERS_OF_TABLES)
LEARNT, FEATURES = 300, 10
HEADS, EPOCHS = ({CLASSES_OF_TABLES: a, NUMBERS_OF_TABLES: b} for a, b in (("probe", "random"), (2, 1)))
"""Of numbers the head is drawn: the ridge regression that it else starts as has weights so large that dropout's noise
decides the first steps, and what is learnt is worse than the probe alone.
"""


def _write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([columns, *rows])
    return str(path)


def files(out: Path, task: str) -> tuple[str, str, str]:
    """(rows to learn from, rows to measure on, the target's column)."""
    given = load_breast_cancer() if task == CLASSES_OF_TABLES else load_diabetes(scaled=False)
    target = "diagnosis" if task == CLASSES_OF_TABLES else "progression"
    told = given.target_names[given.target] if task == CLASSES_OF_TABLES else given.target
    rows = [[*(f"{v:g}" for v in x[:FEATURES]), y] for x, y in zip(given.data, told, strict=True)]
    random.Random(0).shuffle(rows)
    columns = [*given.feature_names[:FEATURES], target]
    parts = {"train": rows[:LEARNT], "test": rows[LEARNT:]}
    train, test = (_write(out / f"{target}-{name}.csv", columns, some) for name, some in parts.items())
    return train, test, target


def recipe(out: Path, task: str, train: dict[str, Any]) -> dict[str, Any]:
    """The recipe that adapts MiniLM-L6."""
    learnt, asked, target = files(out, task)
    return {
        "task": task,
        "model": "minilm-l6",
        "data": {"train": learnt, "eval": asked, "target": target, "max_length": 160, "table": {"numbers": "bins"}},
        "methods": ["full"],
        "train": {**train, "learning_rate": 1e-4, "batch_tokens": 640, "threads": 1, "head": HEADS[task]},
        "budget": {"epochs": EPOCHS[task]},
        "measurement": {"strengths": [1]},
    }
