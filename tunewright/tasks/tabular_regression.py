"""tabular-regression: a number a row of a table, through a text encoder's head with one output.

    loss = ((head - (y - mean) / std))^2,    prediction = mean + std * head

with the mean and the standard deviation of the training rows' targets (`tasks._table`), so that what is learnt does not
hang on the target's unit; predictions and metrics are in that unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import REGRESSION, EncodeOptions
from tunewright.tasks._parts import NUMBERS_OF_TABLES
from tunewright.tasks._problems import Regression
from tunewright.tasks._table import number_in, told
from tunewright.tasks._tabular import Tabular


class TabularRegression(Regression, Tabular):
    """`label` is a number. `Row.fields["target"]` is the standardised one, `fields["unit"]` (mean, std)."""

    name: ClassVar[str] = NUMBERS_OF_TABLES
    problem_type: ClassVar[str] = REGRESSION
    problem_types: ClassVar[tuple[str, ...]] = ()
    unit: ClassVar[str] = "squared standard deviations"

    @property
    def called(self) -> str:
        """Its name says already that it is a regression."""
        return self.name

    def target(self, record: Record, options: EncodeOptions) -> tuple[int | None, dict[str, Any]]:
        """The row's number, standardised."""
        if "label" not in record:
            what = "the row has no target"
            raise RowProblem("label", what, "name its column in the recipe: data.target: your_column")
        number = number_in(record["label"])
        if number is None:
            what = f"{record['label']!r:.60} is no number" if record["label"] is not None else "the target is missing"
            raise RowProblem("label", what, "write a finite number, or leave the row out (data.bad_rows: skip)")
        unit = (options.table or {}).get("target") or {"mean": 0.0, "std": 1.0}
        scaled = (number - unit["mean"]) / unit["std"]
        fields = {"kind": "number", "target": [scaled], "unit": [unit["mean"], unit["std"]]}
        return None, {**fields, "reference": f"{number:.6g}"}

    def predict(self, outputs: Outputs, batch: Batch, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """(the model's number, the right one) of each row in the target's unit."""
        said = outputs.logits[:, 0].double().tolist()
        units = [row.fields["unit"] for row in rows]
        return [
            (told(one, mean, std), row.fields["reference"])
            for row, one, (mean, std) in zip(rows, said, units, strict=True)
        ]

    def default_metric(self, rows: Sequence[Row]) -> str:
        return "rmse"
