"""What a task is: records to rows, rows to a batch, a batch through the model to outputs, outputs to a loss.

Shapes: T tokens of a packed batch, R rows, L longest row, S supervised targets, V vocabulary or classes, D hidden size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tunewright.batch import Batch, Loss, Outputs, Row
from tunewright.data.records import Record, RowProblem


@dataclass(frozen=True)
class EncodeOptions:
    """How records become rows; part of the cache's key.

    `template` wraps the user's text: "Which topic?\\n{text}" (any column may be named). With `{completion}` in it, it is
    the whole text and no chat template is used. `system`: None leaves the chat template as it is (some insert a default
    system turn), "" takes that default turn out, other text is a system turn for rows that have none. `chat`: whether
    prompts go through the chat template; None: when the tokenizer has one. `labels`: class names in the order of their
    ids. `image`: size, mean, std and how to resize, see `tasks.image_classification.image_options`.
    """

    max_length: int = 1024
    truncation: Literal["drop", "split", "fail"] = "drop"
    template: str | None = None
    system: str | None = None
    chat: bool | None = None
    labels: tuple[str, ...] | None = None
    image: dict[str, Any] | None = None

    def key(self) -> str:
        """A text that is equal exactly for equal options."""
        return json.dumps(asdict(self), sort_keys=True)


class Task:
    """One of the hub's tasks. Instances hold no state.

    `auto_class` names the transformers class that loads its models. `packs`: rows may be packed without padding when the
    model's attention takes it. `generates`: answers are generated text. `labelled`: rows need
    `EncodeOptions.labels`. `reads_files`: records name other files, whose content counts.
    """

    name: ClassVar[str]
    auto_class: ClassVar[str]
    packs: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    labelled: ClassVar[bool] = False
    reads_files: ClassVar[bool] = False

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Encode one record whole (length is the dataset's matter). Raises RowProblem(field, reason, remedy)."""
        raise NotImplementedError

    def collate(self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0) -> Batch:
        """Lay rows side by side. `epochs` (one a row, 0 without) and `seed` key draws about rows, such as masking."""
        raise NotImplementedError

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """Run the model. With `hidden`, all hidden states are kept."""
        raise NotImplementedError

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """Cross-entropy of each target, in nats."""
        return Loss(-outputs.log_probs())

    def default_metric(self, rows: Sequence[Row]) -> str:
        """The metric that is the target's headline when the recipe says `auto`."""
        return "loss"


def pad(sequences: Sequence[Sequence[int]], value: int = 0) -> tuple[Tensor, Tensor]:
    """Right-pad to the longest: ids and attention mask, both int64 [R, L]."""
    longest = max(len(s) for s in sequences)
    ids = torch.full((len(sequences), longest), value, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, s in enumerate(sequences):
        ids[i, : len(s)] = torch.as_tensor(s, dtype=torch.long)
        mask[i, : len(s)] = 1
    return ids, mask


def epochs_of(rows: Sequence[Row], epochs: Sequence[int] | None) -> list[int]:
    """One epoch a row; 0 where none are given."""
    if epochs is None:
        return [0] * len(rows)
    if len(epochs) != len(rows):
        raise ValueError(f"{len(epochs)} epochs for {len(rows)} rows")
    return list(epochs)


def label_id(value: Any, labels: Sequence[str] | None) -> int:
    """A label's id from its name or id. Raises RowProblem for what is neither."""
    if labels is None:
        raise RowProblem("label", "the label names are not known", "give EncodeOptions.labels, from tasks.base.discover_labels")
    known = ", ".join(labels[:5]) + (", ..." if len(labels) > 5 else "")
    if value is None or isinstance(value, float) and math.isnan(value):
        raise RowProblem("label", "the label is missing (null or NaN)", f"write one of: {known}")
    if isinstance(value, str):
        if value in labels:
            return list(labels).index(value)
        if not value.strip().isdigit():
            raise RowProblem("label", f"'{value}' is no known label", f"write one of: {known}")
    if isinstance(value, bool):
        value = int(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise RowProblem("label", f"a label is a name or an id, not {type(value).__name__}", f"write one of: {known}") from None
    if not number.is_integer():
        raise RowProblem("label", f"{number} is no class id", "for classification write a class name or a whole number")
    if not 0 <= number < len(labels):
        raise RowProblem("label", f"label id {int(number)} is outside 0..{len(labels) - 1}", f"write a name or id of: {known}")
    return int(number)


def discover_labels(records: Sequence[Record], field: str = "label") -> tuple[str, ...]:
    """Class names of a data set: sorted names, or "0" ... "n-1" where every label is a number. Missing ones are skipped."""
    values = [r[field] for r in records if r.get(field) is not None and not (isinstance(r[field], float) and math.isnan(r[field]))]
    if values and all(isinstance(v, int | float) and float(v).is_integer() for v in values):
        return tuple(str(i) for i in range(int(max(values)) + 1))
    return tuple(sorted({str(v) for v in values}))
