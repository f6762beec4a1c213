"""prompted: which share of the rows has a prompt before what is trained on."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from tunewright.contract.batch import Batch, Row
from tunewright.contract.method import Need
from tunewright.errors import MethodError


class Prompted(Need):
    """The share of a source's rows that have a prompt, above 0: what edits prompts alone does nothing elsewhere.

    Rows of tasks that read a row to judge it whole are all prompt.
    """

    name: ClassVar[str] = "prompted"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "once"
    of_rows: ClassVar[bool] = True

    source: str = Field("train", description="rows that are trained on")

    def check(self, run: Any) -> None:
        if not self.compute(run):
            raise MethodError(
                f"only the tokens of prompts are changed, and no row of '{self.source}' has a prompt",
                where=f"data.{self.source}",
                remedy="give rows with prompt and completion or messages; for plain text use another method",
            )

    def compute(self, run: Any, batch: Batch | None = None) -> float:
        rows: list[Row] = run.source(self.source)
        if not run.task.generates:
            return 1.0
        return sum(bool(r.fields.get("prompt_ids")) or not (r.weights and r.weights[0]) for r in rows) / len(rows)
