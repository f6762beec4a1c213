"""Stages after each other without files between them: what tests of penalties and importances share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests import tiny
from tests.methods.driving import Run, text_rows
from tunewright.contract.batch import Row
from tunewright.contract.left import Earlier, left_of
from tunewright.contract.method import Method
from tunewright.models.adapted import Adapted
from tunewright.runs.stages import end_stage
from tunewright.training.carry import apply_carry


class Tasks:
    """A model that learns one stage after another; `left` is what their methods left."""

    def __init__(self, model: Any = None, task: str = "text-generation", carry: str = "fold"):
        self.adapted = Adapted(model if model is not None else tiny.llama())
        self.task, self.carry, self.left = task, carry, Earlier()

    def begin(self, methods: Mapping[str, Method], rows: Sequence[Row] | None = None, **more: Any) -> Run:
        """The next stage, before its first step."""
        rows = text_rows(8, seed=len(self.left)) if rows is None else rows
        name = f"s{len({one.stage for one in self.left})}"
        options = {"steps": 3, "plan": {"stage": name}, "earlier": self.left, **more}
        run = Run(methods, model=self.adapted, task=self.task, sources={"s": rows}, **options)
        run.methods.event("begin_task", stage=name, adapted=self.adapted)
        return run

    def end(self, run: Run) -> None:
        """What a stage's end does, and what becomes of its deltas."""
        name = run.plan.stage
        end_stage(run.stage, name)
        left = [left_of(name, b.name, b.method.leaves, b.state, b.state.data) for b in run.methods]
        self.left = Earlier((*self.left, *(one for one in left if one is not None)))
        apply_carry(self.adapted, self.carry, name)

    def stage(self, methods: Mapping[str, Method], rows: Sequence[Row] | None = None, **more: Any) -> Run:
        """The next stage from its beginning to its end."""
        run = self.begin(methods, rows, **more)
        run.train()
        self.end(run)
        return run
