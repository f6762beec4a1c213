"""What tasks share: padding, epochs, and labels from names or ids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tunewright.contract.batch import Row
from tunewright.contract.records import Record, RowProblem


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
        raise RowProblem(
            "label", "the label names are not known", "give EncodeOptions.labels, from tasks.base.discover_labels"
        )
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
        raise RowProblem(
            "label", f"a label is a name or an id, not {type(value).__name__}", f"write one of: {known}"
        ) from None
    if not number.is_integer():
        raise RowProblem("label", f"{number} is no class id", "for classification write a class name or a whole number")
    if not 0 <= number < len(labels):
        raise RowProblem(
            "label", f"label id {int(number)} is outside 0..{len(labels) - 1}", f"write a name or id of: {known}"
        )
    return int(number)


def discover_labels(records: Sequence[Record], field: str = "label") -> tuple[str, ...]:
    """Class names of a data set: sorted names, or "0" ...

    "n-1" where every label is a number. Missing ones are skipped.
    """
    values = [
        r[field]
        for r in records
        if r.get(field) is not None and not (isinstance(r[field], float) and math.isnan(r[field]))
    ]
    if values and all(isinstance(v, int | float) and float(v).is_integer() for v in values):
        return tuple(str(i) for i in range(int(max(values)) + 1))
    return tuple(sorted({str(v) for v in values}))
