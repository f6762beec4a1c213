"""The problem types of classification, as transformers' configs name them: one class a row, any number of labels, or a
number. What a row is read from and how a model reads it stays as the task has it.

- `multi_label_classification`: `labels`, a list of names or ids, or a column of 0 and 1 for each of `data.labels`.
  Binary cross-entropy of each label, the mean over labels; a label is said where its sigmoid is above 0.5.
- `regression`: a number, as `label` or `score`. Squared error of the head's one output.

Shapes: R rows, V labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from tunewright.contract.batch import Batch, Loss, Outputs, Row
from tunewright.contract.records import Record, RowProblem, finite
from tunewright.contract.task import MULTI_LABEL, REGRESSION, EncodeOptions, Task
from tunewright.errors import MethodError
from tunewright.tasks.base import label_id
from tunewright.tasks.image_classification import ImageClassification
from tunewright.tasks.text_classification import TextClassification

BETWEEN = ", "
"""What stands between the labels that are said of a row; a comma in a label's name is shown as a semicolon."""
_LIST = 'write ["billing", "cards"], or [] for none'


class _Problem(Task):
    """What both have: `Row.fields["target"]`, a list of numbers, and `Batch.fields["targets"]` [R, V]."""

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """As the task has it, with `fields["targets"]`; nothing reads `labels`, which are zeros."""
        batch = super().collate(rows, packed, epochs=epochs, seed=seed)
        targets = torch.tensor([row.fields["target"] for row in rows], dtype=torch.float32)
        return batch.replace(fields={**batch.fields, "targets": targets})


class MultiLabel(_Problem):
    """Any number of the labels a row: a sigmoid each."""

    multi_label: ClassVar[bool] = True
    problem_type: ClassVar[str] = MULTI_LABEL
    unit: ClassVar[str] = "nats per label"

    def label_values(self, record: Record) -> Sequence[Any]:
        """The labels of a row."""
        given = record.get("labels", record.get("label"))
        return given if isinstance(given, list) else ()

    def target(self, record: Record, options: EncodeOptions) -> tuple[int | None, dict[str, Any]]:
        """1 for each label that the row has, else 0."""
        labels = list(options.labels or ())
        column = "labels" if "labels" in record or "label" not in record else "label"
        if column not in record and labels and all(label in record for label in labels):
            target = [_zero_or_one(record[label], label) for label in labels]
        elif not isinstance(record.get(column), list):
            what = "it is no list of labels" if column in record else "the row has no labels"
            raise RowProblem(
                column, what, f"{_LIST}; or name the column in the source: columns: {{labels: your_column}}"
            )
        else:
            on = {label_id(value, options.labels, field=column) for value in record[column]}
            target = [float(i in on) for i in range(len(labels))]
        names = [label.replace(",", ";") for label in labels]
        return None, {"kind": "labels", "target": target, "names": names, "reference": _on(names, target)}

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """[R] binary cross-entropy, the mean over labels."""
        each = binary_cross_entropy_with_logits(outputs.logits.float(), batch.fields["targets"], reduction="none")
        return Loss(each.mean(-1))

    def predict(self, outputs: Outputs, batch: Batch, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """(the labels above 0.5, the right ones) of each row."""
        said = outputs.logits.tolist()
        return [(_on(r.fields["names"], one), r.fields["reference"]) for r, one in zip(rows, said, strict=True)]

    def default_metric(self, rows: Sequence[Row]) -> str:
        return "multilabel_f1_micro"


class Regression(_Problem):
    """A number a row."""

    labelled: ClassVar[bool] = False
    scores: ClassVar[bool] = True
    problem_type: ClassVar[str] = REGRESSION
    unit: ClassVar[str] = "squared points"

    def target(self, record: Record, options: EncodeOptions) -> tuple[int | None, dict[str, Any]]:
        """The row's number."""
        column = "score" if "score" in record and "label" not in record else "label"
        number = None if isinstance(record.get(column), bool) else finite(record.get(column))
        if number is None:
            what = f"{record[column]!r:.60} is no number" if column in record else "the row has no number"
            remedy = f"write a finite number, or name its column in the source: columns: {{{column}: your_column}}"
            raise RowProblem(column, what, remedy)
        return None, {"kind": "number", "target": [number], "reference": f"{number:.6g}"}

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`scores` [R] and `logits` [R, 1]."""
        out = super().forward(model, batch, hidden=hidden)
        return Outputs(
            out.logits,
            out.labels,
            log_probs=_none,
            hidden=out.hidden,
            features=out.features,
            head=out.head,
            scores=out.logits[:, 0].float(),
            raw=out.raw,
            present=out.present,
        )

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """[R] squared error."""
        assert outputs.scores is not None
        return Loss((outputs.scores - batch.fields["targets"][:, 0]) ** 2)

    def predict(self, outputs: Outputs, batch: Batch, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """(the model's number, the right one) of each row, to six digits."""
        return [
            (f"{one:.6g}", r.fields["reference"]) for r, one in zip(rows, outputs.logits[:, 0].tolist(), strict=True)
        ]

    def default_metric(self, rows: Sequence[Row]) -> str:
        return "mse"


class TextLabels(MultiLabel, TextClassification):
    """Any number of the labels a text."""


class TextScore(Regression, TextClassification):
    """A number a text."""


class ImageLabels(MultiLabel, ImageClassification):
    """Any number of the labels a picture."""


class ImageScore(Regression, ImageClassification):
    """A number a picture."""


VARIANTS: dict[tuple[str, str], type[Task]] = {
    (cls.name, cls.problem_type): cls for cls in (TextLabels, TextScore, ImageLabels, ImageScore)
}


def _zero_or_one(value: Any, column: str) -> float:
    number = finite(value)
    if number not in (0.0, 1.0):
        raise RowProblem(column, f"{value!r:.60} is neither 0 nor 1", "write 1 where the row has the label, else 0")
    return float(number)


def _on(names: Sequence[str], values: Sequence[float]) -> str:
    """The names whose value is above 0: a sigmoid above 0.5."""
    return BETWEEN.join(name for name, value in zip(names, values, strict=True) if value > 0)


def _none() -> Tensor:
    raise MethodError(
        "a regression gives one number a row and no likelihoods", remedy="take the method out: the task has a loss"
    )
