"""What the loop is given: one stage's model, methods, rows and plan, and who listens to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from tunewright.contract.batch import Batch, Row
from tunewright.contract.combining import Bound, Methods
from tunewright.contract.left import Earlier
from tunewright.contract.method import Plan
from tunewright.models.adapted import Adapted
from tunewright.models.compiled import Compiled


class Rows(Protocol):
    """Where rows come from: `data.order.Cursor`, or anything like it."""

    @property
    def exhausted(self) -> bool:
        """Whether all epochs that were asked for are given."""
        ...

    def next_batch(self) -> list[tuple[Row, int]]: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...


class Stop(Exception):
    """Raised by a listener to end a stage early; the message says why."""


@dataclass
class TrainingInputs:
    """Everything the loop needs for one stage. `signals(needs, batch)` computes the methods' per-batch needs.

    `spec` is the resolved `train` section; `validation` a data set that methods may choose on; `compiled` the model's
    blocks where they run compiled. `listen(loop, record)`
    is called after every optimizer step, `begin(loop)` before the first one of a stage that does not go on from a
    checkpoint.
    """

    adapted: Adapted
    task: Any
    methods: Methods
    rows: Rows
    plan: Plan
    spec: Any
    budget: Any
    signals: Callable[[Bound, Batch | None, str], dict[str, Any]] = lambda bound, batch, when: {}
    listen: Callable[[Any, dict[str, Any]], None] = lambda loop, record: None
    splits: dict[int, int] = field(default_factory=dict)
    on_split: Callable[[int, int], None] = lambda step, tokens: None
    begin: Callable[[Any], None] = lambda loop: None
    validation: Any = None
    earlier: Earlier = field(default_factory=Earlier)
    device: str = "cpu"
    packed: bool = False
    compiled: Compiled | None = None
