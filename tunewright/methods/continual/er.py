"""Experience replay: every step also trains on rows that were kept of the stream so far (Chaudhry et al. 2019,
arXiv:1902.10486; papers: er).

    theta <- step on B u M;    M: `minibatch_size` rows drawn of the buffer;    then B's rows come by the buffer

B are the step's rows, and the loss is one mean over both, as in the paper and in aimagelab/mammoth (models/er.py). Rows
of the present stage are in the buffer too as soon as they were trained on. Which are kept, `keep`:

    reservoir   each row of the stream with the same chance (default; the paper's best for a buffer that is not tiny)
    balanced    the same within each class, or within each source where rows have no class
    herding     those nearest their class's mean, of earlier stages alone (iCaRL); needs one class a row

The buffer goes on into every later stage that has `er` (pieces/rehearsal.py) and is counted under "Rehearsal buffer" in
a report: rows and bytes. Any task and any objective: a row that was kept is a row like the step's. Budgets in steps,
tokens and epochs count the data's rows; operations count all.

Defaults: as many rows as the step has (the paper: 10 and 10); 500 rows (the authors of Mammoth: 200, 500 and 5,120).
Differs from the paper in: its protocol sees each row once; here a stage may have epochs, and a row comes by the buffer
each time. Raises MethodError where the buffer is smaller than what an earlier stage left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, PositiveInt

from tunewright.contract.method import Need, Needs, State
from tunewright.methods.needs.row_features import RowFeatures
from tunewright.methods.needs.stage_rows import StageRows
from tunewright.pieces.rehearsal import Keep, RehearsalMethod
from tunewright.training.inner import Inner


class ER(RehearsalMethod):
    """Train on kept rows beside each step's own."""

    minibatch_size: PositiveInt | None = Field(
        None, description="kept rows a step; left out: as many as the step has rows", examples=[1]
    )
    keep: Keep = Field("reservoir", description="which rows are kept of the stream")  # type: ignore[assignment]

    papers: ClassVar[tuple[str, ...]] = ("er",)
    conformance: ClassVar[dict[str, object]] = {"buffer_size": 5}
    conformance_stages: ClassVar[int] = 2
    _name: ClassVar[str] = "er"

    def needs(self) -> Sequence[Need]:
        return (RowFeatures(), StageRows()) if self.keep == "herding" else ()

    def step(self, inner: Inner, step: int, state: State) -> None:
        buffer = self._buffer(state)
        drawn = buffer.draw(self.minibatch_size or len(inner.rows), step)
        inner.gradients(also=[buffer.row(slot) for slot in drawn])
        buffer.add(inner.rows)

    def end_task(self, needs: Needs, state: State) -> None:
        if self.keep == "herding":
            features, classes = needs.row_features()
            self._buffer(state).herd(needs.stage_rows, features, classes)
