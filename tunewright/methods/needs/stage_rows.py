"""stage_rows: the rows that a stage was trained on, when it has ended."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from tunewright.contract.batch import Row
from tunewright.contract.method import Need


class StageRows(Need):
    """A stage's training rows, encoded, in the order of what `row_features` gives: read it in `end_task`."""

    name: ClassVar[str] = "stage_rows"
    when: ClassVar[Literal["once", "batch", "redraw", "end"]] = "end"

    def check(self, run: Any) -> None:
        run.source("train")

    def compute(self, run: Any, batch: Any = None) -> list[Row]:
        rows: list[Row] = run.source("train")
        return rows
