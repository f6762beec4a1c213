"""What a report says of a sequence of tasks: the matrix, what follows from it, and what is kept from task to task."""

from __future__ import annotations

from pydantic import Field

from tunewright.measure.intervals import Interval
from tunewright.recipe.tasks import Scenario
from tunewright.report.saved import Part


class AfterTask(Part):
    """The model after one task: what it cost, what is kept for later tasks, and what else it lost."""

    name: str = Field(description="the task")
    seconds: float | None = Field(None, ge=0, description="time in its steps, seconds")
    kept: dict[str, Interval] = Field(
        default_factory=dict, description="kept name -> its loss after the task, where the recipe keeps anything"
    )
    drift: Interval | None = Field(None, description="drift from the base after it, in the report's measure")
    held_bytes: int | None = Field(
        None,
        ge=0,
        description="what methods leave to later tasks or answer with when it ends (statistics, prototypes), bytes",
    )
    change_bytes: int | None = Field(
        None, ge=0, description="weights that differ from the base when it ends, and what is added to them, bytes"
    )
    replayed_rows: int = Field(0, ge=0, description="rows of earlier tasks that it may read again")


class SequenceReport(Part):
    """A sequence of tasks. Row 0 of the matrix is the base, row i the model after task i; a column is a task's rows.

    Tasks count alike in every mean. Of a metric of which less is better signs are turned, so that transfer above 0 is
    good and forgetting above 0 is bad.
    """

    tasks: list[str] = Field(description="the tasks in the order in which they were learnt")
    scenario: Scenario | None = Field(
        None, description="what tells tasks apart; null: rows have no classes, or they come again"
    )
    by: str | None = Field(None, description="column that cut one data set into the tasks")
    blurry: tuple[float, float] | None = Field(
        None, description="share of a task's values that it alone has, and of the others' rows that all tasks have"
    )
    recurring: int | None = Field(
        None, ge=2, description="stages that have several of the tasks each, which come again; null: a stage a task"
    )
    ordered: str = Field("as listed", description="where the order comes from, in words")
    rows: list[str] = Field(description="what each row of the matrix is measured after: base, then stages")
    matrix: list[list[Interval | None]] = Field(description="the target's metric by row and task")
    accuracy: Interval | None = Field(None, description="ACC: mean over tasks after the last one")
    incremental_accuracy: Interval | None = Field(
        None, description="mean over i of the mean over the tasks seen after task i"
    )
    backward_transfer: Interval | None = Field(
        None, description="BWT: mean over tasks but the last of what later tasks changed of it"
    )
    forward_transfer: Interval | None = Field(
        None, description="FWT: mean over tasks but the first of what earlier tasks gave to it, beside the base"
    )
    forgetting: Interval | None = Field(
        None, description="mean over tasks but the last of the best it ever was after a task, less its end"
    )
    accumulation: Interval | None = Field(
        None, description="of tasks that come again: ACC at the end less ACC after the first stage"
    )
    after: list[AfterTask] = Field(default_factory=list, description="the model after each task")

    def mean(self, row: int) -> float | None:
        """The mean over tasks of a row of the matrix; None where nothing is in it."""
        values = [c.value for c in self.matrix[row] if c is not None]
        return sum(values) / len(values) if values else None

    def plain(self) -> dict[str, float]:
        """What follows from the matrix beside its last row's mean, and the most that methods held, as plain numbers."""
        named = ("incremental_accuracy", "backward_transfer", "forward_transfer", "forgetting", "accumulation")
        found = {n: i.value for n in named if (i := getattr(self, n)) is not None}
        held = [a.held_bytes for a in self.after if a.held_bytes is not None]
        return {**found, **({"held_bytes": float(max(held))} if held else {})}
