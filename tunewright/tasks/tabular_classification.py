"""tabular-classification: one class a row of a table, through a text encoder's classification head.

Rows are texts, "age: 39; job: clerk;" (`tasks._table`): all that serves text-classification serves them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tunewright.contract.batch import Row
from tunewright.tasks._parts import CLASSES_OF_TABLES
from tunewright.tasks._tabular import Tabular


class TabularClassification(Tabular):
    """`label` is a name or an id of `options.labels`."""

    name: ClassVar[str] = CLASSES_OF_TABLES

    def beside(self, metric: str, rows: Sequence[Row]) -> tuple[str, ...]:
        """F1 over classes, log loss, and of two classes the area under the ROC curve."""
        two = ("roc_auc",) if {row.label for row in rows} == {0, 1} else ()
        return tuple(m for m in ("f1_macro", "log_loss", *two) if m != metric) if metric == "accuracy" else ()

    def default_metric(self, rows: Sequence[Row]) -> str:
        return "accuracy"
