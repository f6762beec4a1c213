"""feature_statistics: mean and standard deviation of each feature that other models of the recipe give training
rows.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need
from tunewright.errors import MethodError
from tunewright.methods.needs.teachers_states import TeachersStates

AT_ONCE = 16  # rows a forward


class FeatureStatistics(Need):
    """{model name: (mean [D], standard deviation [D])}, fp32, over the states at `states_at`'s places of the first
    training rows.

    MethodError when the recipe names no such model, or where the rows give fewer than two places.
    """

    name: ClassVar[str] = "feature_statistics"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "once"

    models: tuple[str, ...] = Field(description="which of the recipe's `models`")
    layer: int = Field(-1, description="layer to read; 0: embeddings, negative: from the end")
    rows: PositiveInt = Field(256, description="how many training rows to look at, the first ones")

    def check(self, run: Any) -> None:
        run.source("train")
        for name in self.models:
            run.model(name)

    def compute(self, run: Any, batch: Batch | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        rows = run.source("train")[: self.rows]
        sums: list[tuple[Tensor, Tensor]] = []
        count = 0
        for start in range(0, len(rows), AT_ONCE):
            part = run.task.collate(rows[start : start + AT_ONCE], run.packed, seed=run.seed).to(run.device)
            each = [x.double() for x in TeachersStates(models=self.models, layer=self.layer).compute(run, part)]
            new = [(x.sum(0), x.square().sum(0)) for x in each]
            sums = [(a + c, b + d) for (a, b), (c, d) in zip(sums, new, strict=True)] if sums else new
            count += len(each[0])
        if count < 2:
            raise MethodError(
                f"{len(rows)} training rows give {count} places to take statistics from",
                remedy="give more training rows",
            )
        statistics = {}
        for name, (total, squares) in zip(self.models, sums, strict=True):
            mean = total / count
            statistics[name] = (mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float())
        return statistics
