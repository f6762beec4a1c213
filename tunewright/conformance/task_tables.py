"""What the tasks of tables are checked on: a colour in words and a number, told to be warm or cold, or how warm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.conformance import bench
from tunewright.conformance.task_case import TaskExample

Row = Mapping[str, Any]


def _bad(label: Any) -> dict[str, tuple[Row, str]]:
    return {
        "no label": ({"c": "red", "n": 1, "label": None}, "label"),
        "no such column": ({"c": "red", "label": label}, "n"),
        "text in a column of numbers": ({"c": "red", "n": "many", "label": label}, "n"),
        "a list in a cell": ({"c": ["red"], "n": 1, "label": label}, "c"),
        "no cell": ({"c": None, "n": None, "label": label}, "row"),
    }


def tabular_classification(colours: Sequence[tuple[str, str]], reader: Any) -> TaskExample:
    """Colours that are warm or cold; the number says nothing."""
    rows = [{"c": text, "n": i % 3, "label": kind} for i, (text, kind) in enumerate(colours)]
    return TaskExample(
        model=lambda: bench.bert("BertForSequenceClassification", labels=2),
        reader=reader,
        rows=rows,
        bad={**_bad("warm"), "no known label": ({"c": "red", "n": 1, "label": "hot"}, "label")},
        labels=("cold", "warm"),
        right=lambda row: str(row["label"]),
        figure=lambda pairs: sum(a == b for a, b in pairs) / len(pairs),
        steps=24,
    )


def tabular_regression(colours: Sequence[tuple[str, str]], reader: Any) -> TaskExample:
    """Colours with a temperature."""
    degrees = {"warm": 20.5, "cold": -3.5}
    rows = [{"c": text, "n": i % 3, "label": degrees[kind] + i % 2} for i, (text, kind) in enumerate(colours)]
    return TaskExample(
        model=lambda: bench.bert("BertForSequenceClassification", labels=1),
        reader=reader,
        rows=rows,
        bad={**_bad(1.5), "no number": ({"c": "red", "n": 1, "label": "hot"}, "label")},
        right=lambda row: f"{row['label']:.6g}",
        figure=lambda pairs: math.sqrt(sum((float(a) - float(b)) ** 2 for a, b in pairs) / len(pairs)),
        steps=24,
    )
