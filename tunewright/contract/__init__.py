"""What methods, tasks and data agree on. What is listed here is public: third parties import it from this package.

    from tunewright.contract import Choice, Loss, Method, State

Names are fetched when they are asked for, so that importing the package imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunewright.contract.batch import Batch, Loss, Outputs, Row
    from tunewright.contract.change import Change
    from tunewright.contract.found import Found
    from tunewright.contract.made import Made
    from tunewright.contract.method import (
        Candidates,
        Choice,
        Method,
        Need,
        Needs,
        Plan,
        Setup,
        State,
        row_rng,
        torch_generator,
    )
    from tunewright.contract.metric import Answered, Metric
    from tunewright.contract.pairs import Pair
    from tunewright.contract.reader import Reader, Reading
    from tunewright.contract.records import Record, RowProblem
    from tunewright.contract.selected import Selected
    from tunewright.contract.shape import Shape
    from tunewright.contract.slot import SLOTS, Slot
    from tunewright.contract.task import EncodeOptions, Task
    from tunewright.contract.unlabelled import Moving, Unjudged, Unlabelled
    from tunewright.contract.writer import Continue, Writer, Written

_HOMES = {
    "batch": ("Batch", "Loss", "Outputs", "Row"),
    "change": ("Change",),
    "found": ("Found",),
    "made": ("Made",),
    "method": (
        *("Candidates", "Choice", "Method", "Need", "Needs", "Plan", "Setup", "State"),
        *("row_rng", "torch_generator"),
    ),
    "metric": ("Answered", "Metric"),
    "pairs": ("Pair",),
    "reader": ("Reader", "Reading"),
    "records": ("Record", "RowProblem"),
    "selected": ("Selected",),
    "shape": ("Shape",),
    "slot": ("SLOTS", "Slot"),
    "task": ("EncodeOptions", "Task"),
    "unlabelled": ("Moving", "Unjudged", "Unlabelled"),
    "writer": ("Continue", "Writer", "Written"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "SLOTS",
    "Answered",
    "Batch",
    "Candidates",
    "Change",
    "Choice",
    "Continue",
    "EncodeOptions",
    "Found",
    "Loss",
    "Made",
    "Method",
    "Metric",
    "Moving",
    "Need",
    "Needs",
    "Outputs",
    "Pair",
    "Plan",
    "Reader",
    "Reading",
    "Record",
    "Row",
    "RowProblem",
    "Selected",
    "Setup",
    "Shape",
    "Slot",
    "State",
    "Task",
    "Unjudged",
    "Unlabelled",
    "Writer",
    "Written",
    "row_rng",
    "torch_generator",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tunewright.contract' has no attribute '{name}'")
    return getattr(importlib.import_module(f"tunewright.contract.{_HOME_OF[name]}"), name)
