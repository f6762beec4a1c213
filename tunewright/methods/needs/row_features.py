"""row_features: what the head reads of a stage's rows, as the model is when it is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from tunewright.contract.batch import Row
from tunewright.contract.method import Need
from tunewright.errors import MethodError
from tunewright.measure.drift import take_features


class RowFeatures(Need):
    """A function that gives (pooled features [N, D] fp32, classes [N]) of a stage's training rows, in their order, or
    of the rows that it is given.

    In evaluation mode and without gradient, by the model without what wraps it and with its deltas switched as they are
    at the call, so that several experts can be asked one after the other. Only tasks with one class a row have them.
    """

    name: ClassVar[str] = "row_features"
    when: ClassVar[Literal["once", "batch", "redraw", "end"]] = "end"

    def check(self, run: Any) -> None:
        if not run.task.classifies:
            raise MethodError(
                f"rows of the task {run.task.name} have no classes", where="task", remedy="use a classification task"
            )
        run.source("train")

    def compute(self, run: Any, batch: Any = None) -> Callable[..., tuple[Tensor, Tensor]]:
        def read(rows: Sequence[Row] | None = None) -> tuple[Tensor, Tensor]:
            rows = run.source("train") if rows is None else list(rows)
            features = take_features(run.adapted.model, run.task, rows).values
            return features, torch.tensor([int(row.label or 0) for row in rows], device=features.device)

        return read
