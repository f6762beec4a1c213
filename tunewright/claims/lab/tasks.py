"""The lab's tasks: what a claim's arms learn, on which base, and what they must not lose. A recipe without methods each.

Rows to train, to choose settings on (validation) and to judge on (eval) are kept apart; 200 rows or more are judged.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tunewright.errors import ClaimError, did_you_mean

Scale = Literal["nano", "real"]


@dataclass(frozen=True)
class LabTask:
    """A task by scale. `scales` maps a scale to a recipe without methods; `needs_data`: reads TUNEWRIGHT_DATA."""

    name: str
    about: str
    scales: Mapping[str, Mapping[str, Any]]
    needs_data: bool = False

    def recipe(self, scale: Scale = "nano") -> dict[str, Any]:
        """A copy of the recipe. ClaimError where the task has no base of this scale."""
        if scale not in self.scales:
            raise ClaimError(f"the lab task '{self.name}' has no base at scale '{scale}'", remedy=f"it has: {', '.join(self.scales)}")
        return copy.deepcopy(dict(self.scales[scale]))


INTENTS = LabTask(
    "intents",
    "Which of twelve topics is a bank customer's message about? Written out by the model; exact match on 200 rows.",
    {
        "real": {
            "model": "smollm2-135m-instruct",
            "task": "text-generation",
            "data": {
                "train": "quickstart:train",
                "validation": [{"path": "quickstart:validation"}],
                "eval": [{"path": "quickstart:test"}],
                "system": "",
                "max_length": 256,
            },
            "keep": [{"data": "quickstart:keep", "name": "general"}],
            "train": {"batch_tokens": 256, "precision": "float32"},
            "budget": {"tokens": 20_000},
            "evaluation": {"rows": 200, "max_new_tokens": 12, "drift_sequences": 32, "drift_tokens": 48},
        },
    },
)

TASKS: dict[str, LabTask] = {t.name: t for t in (INTENTS,)}
"""The lab's tasks by name."""


def task(name: str) -> LabTask:
    """A task by its name. ClaimError with the nearest names otherwise."""
    if name not in TASKS:
        raise ClaimError(f"the lab has no task '{name}'", remedy=did_you_mean(name, TASKS))
    return TASKS[name]
