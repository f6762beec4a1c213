"""text-classification: one class a text, any number of labels, or a number, through a sequence classifier's own head.

Which of these follows from the rows, or from `data.problem_type`; see `tasks._problems`. Rows are padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import MULTI_LABEL, REGRESSION, SINGLE_LABEL, EncodeOptions, Task
from tunewright.errors import ModelError
from tunewright.tasks._pooled import classifier_outputs
from tunewright.tasks._segments import ids_of
from tunewright.tasks.base import epochs_of, fill, label_id, pad

ANSWERS = ("label", "labels", "score", "completion")
"""Columns that say what is right, which a template may not show."""


class TextClassification(Task):
    """`label` is a name or an id of `options.labels`. `Row.fields["reference"]` is the label's name."""

    name: ClassVar[str] = "text-classification"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    labelled: ClassVar[bool] = True
    unit: ClassVar[str] = "nats per row"
    problem_type: ClassVar[str] = SINGLE_LABEL
    problem_types: ClassVar[tuple[str, ...]] = (SINGLE_LABEL, MULTI_LABEL, REGRESSION)

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Encode `text` and `label`, with the tokens that the tokenizer puts around a text."""
        text = record.get("text", record.get("prompt"))
        if not isinstance(text, str) or not text.strip():
            raise RowProblem(
                "text",
                "the text is missing or empty",
                "fill it in, or name its column in the source: columns: {text: your_column}",
            )
        if options.template:
            text = fill(options.template, record, answers=ANSWERS, text=text)
        label, fields = self.target(record, options)
        ids = ids_of(tokenizer, text, special=True)
        return Row(record.id, record.source, ids, [1.0], label, fields)

    def target(self, record: Record, options: EncodeOptions) -> tuple[int | None, dict[str, Any]]:
        """What is right of a record: its class (none where a row has none), and what its row's fields say of it."""
        if "label" not in record and "completion" not in record:
            raise RowProblem(
                "label",
                "the row has no label",
                "add it, or name its column in the source: columns: {label: your_column}",
            )
        label = label_id(record.get("label", record.get("completion")), options.labels)
        assert options.labels is not None
        return label, {"kind": "label", "reference": options.labels[label]}

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """Padded ids and mask [R, L], one target a row."""
        ids, mask = pad([r.input_ids for r in rows])
        return Batch(
            inputs={"input_ids": ids, "attention_mask": mask},
            labels=torch.tensor([r.label or 0 for r in rows]),
            weights=torch.tensor([r.weights[0] for r in rows], dtype=torch.float32),
            rows=torch.arange(len(rows)),
            row_ids=[r.id for r in rows],
            sources=[r.source for r in rows],
            tokens=int(mask.sum()),
            epochs=epochs_of(rows, epochs),
            fields={"prompt_lengths": mask.sum(1)},
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`logits` [R, V]; `features` [R, D] are what the head reads.

        Some decoders find a row's end by the padding id.
        """
        inputs = dict(batch.inputs)
        padding = getattr(getattr(model, "config", None), "pad_token_id", None)
        mask = inputs["attention_mask"]
        if not bool(mask.all()):
            if padding is None:
                raise ModelError(
                    "rows of unequal length need padding, and the model names no padding id",
                    remedy="set pad_token_id in the model's config.json",
                )
            inputs["input_ids"] = inputs["input_ids"].masked_fill(mask == 0, padding)
        return classifier_outputs(model, batch, inputs, hidden=hidden)

    def default_metric(self, rows: Sequence[Row]) -> str:
        return "accuracy"
