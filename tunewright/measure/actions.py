"""Errors of actions, from the texts of `tasks.reinforcement_learning`: JSON, an action (or a list of numbers) a step.

A row is a window of an episode. Every action counts alike, however many its window has.

- action_accuracy: the share of actions to choose from that are the recorded ones.
- action_mae: mean |a - said| over the numbers of actions, in the actions' own units.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from tunewright.contract.metric import Answered, Metric
from tunewright.tasks._parts import CONTINUOUS, DISCRETE, PLAYING

_KEPT = 4096


@lru_cache(_KEPT)
def _hits(answer: str, reference: str) -> tuple[float, int]:
    """(actions that are the recorded ones, actions) of a window."""
    said, right = json.loads(answer), json.loads(reference)
    return float(sum(a == b for a, b in zip(said, right, strict=True))), len(right)


@lru_cache(_KEPT)
def _errors(answer: str, reference: str) -> tuple[float, int]:
    """(sum of |a - said|, numbers) of a window."""
    apart = np.abs(np.array(json.loads(answer), np.float64) - np.array(json.loads(reference), np.float64))
    return float(apart.sum()), apart.size


_Counted = Callable[[str, str], tuple[float, int]]


def _of(counted: _Counted, kind: str, **how: object) -> Metric:
    """A mean over all actions of all windows, and over those of one."""

    def one(answer: str, reference: str) -> float:
        total, count = counted(answer, reference)
        return total / count

    def every(rows: Sequence[Answered]) -> float:
        each = [counted(r.answer, r.reference) for r in rows]
        return sum(total for total, _ in each) / sum(count for _, count in each)

    given: dict[str, object] = {"compare": one, "figure": every, "tasks": (PLAYING,), "reads": (kind,), **how}
    return Metric("predicted", **given)  # type: ignore[arg-type]


ACTIONS: dict[str, Metric] = {
    "action_accuracy": _of(_hits, DISCRETE),
    "action_mae": _of(_errors, CONTINUOUS, higher_is_better=False, share=False, bounds=None),
}
"""The metrics of recorded actions by name."""
