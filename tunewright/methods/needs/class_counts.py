"""class_counts: how many of a stage's rows each class has."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Literal

from tunewright.contract.method import Need
from tunewright.errors import MethodError


class ClassCounts(Need):
    """Rows by class number, of a stage's training rows. Only tasks with one class a row have them."""

    name: ClassVar[str] = "class_counts"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "once"
    of_rows: ClassVar[bool] = True

    def check(self, run: Any) -> None:
        if not run.task.classifies:
            raise MethodError(
                f"rows of the task {run.task.name} have no classes", where="task", remedy="use a classification task"
            )
        run.source("train")

    def compute(self, run: Any, batch: Any = None) -> dict[int, int]:
        return dict(sorted(Counter(int(row.label) for row in run.source("train")).items()))
