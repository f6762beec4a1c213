"""row_labels: the classes that a stage's rows have."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from tunewright.contract.method import Need
from tunewright.errors import MethodError


class RowLabels(Need):
    """Sorted class numbers of a stage's training rows. Only tasks with one class a row have them; of others it is
    refused, or with `some` there are none.
    """

    name: ClassVar[str] = "row_labels"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "once"
    of_rows: ClassVar[bool] = True

    some: bool = Field(False, description="whether a task without classes is served too, with none")

    def check(self, run: Any) -> None:
        if not run.task.classifies and not self.some:
            raise MethodError(
                f"rows of the task {run.task.name} have no classes", where="task", remedy="use a classification task"
            )
        run.source("train")

    def compute(self, run: Any, batch: Any = None) -> list[int]:
        return sorted({int(row.label) for row in run.source("train")}) if run.task.classifies else []
