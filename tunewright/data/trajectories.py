"""An episode in a row of its own, as `datasets`, Minari and D4RL have it: `observations`, `actions`, `rewards`, perhaps
when it ended. One observation more than there are actions is the one behind the last action, which nothing follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.contract.records import RowProblem
from tunewright.tasks._trajectories import Trajectory

ENDS = (
    *("terminated", "terminations", "terminals", "dones", "done"),
    *("truncated", "truncations", "timeouts"),
)
"""Names of a column that says when an episode is over: once, or at each step."""


def trajectory_of(row: Mapping[str, Any]) -> Trajectory:
    """The episode of a row. RowProblem for lists of different lengths, what is no finite number, more than one episode.

    Whole numbers, alone or in lists of one, are actions to choose from; all else are numbers.
    """
    observations = steps_of(row["observations"], "observations")
    rewards = steps_of(row["rewards"], "rewards")
    actions = steps_of(row["actions"], "actions")
    if rewards.shape[1] != 1:
        raise RowProblem("rewards", f"a step has {rewards.shape[1]} rewards", "write a number a step")
    count = len(rewards)
    if len(actions) != count or len(observations) not in (count, count + 1):
        said = f"{len(observations)} observations, {len(actions)} actions and {count} rewards"
        raise RowProblem("actions", f"{said}: an episode has as many of each", "write one of each a step")
    for name in ENDS:
        _ends_once(row.get(name), name, count)
    chosen = actions.dtype.kind in "iu" and actions.shape[1] == 1
    given = actions[:, 0].astype(np.int64) if chosen else actions.astype(np.float64)
    return Trajectory(observations[:count].astype(np.float64), given, rewards[:, 0].astype(np.float64))


def steps_of(value: Any, name: str) -> NDArray[Any]:
    """[T, N] of a number, or a list of N numbers, a step. RowProblem naming the step that is none."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise RowProblem(name, f"it is no list of steps: {str(value)[:40]}", "write [[0.1, 0.2], [0.0, 0.3]]")
    steps = [step if isinstance(step, list) else [step] for step in value]
    wide = len(steps[0])
    for t, step in enumerate(steps):
        if len(step) != wide or not wide:
            what = f"step {t} has {len(step)} numbers, and the first one {wide}"
            raise RowProblem(name, what, "write as many numbers at each step")
        for cell in step:
            if isinstance(cell, bool) or not isinstance(cell, int | float):
                raise RowProblem(name, f"{str(cell)[:40]!r} at step {t} is no number", "write numbers alone")
    try:
        out: NDArray[Any] = np.array(steps)
        if out.dtype.kind not in "iuf":
            raise OverflowError
    except OverflowError:
        raise RowProblem(name, "it holds a number that is too large", "write numbers that a float has") from None
    if not np.isfinite(out).all():
        at = int(np.flatnonzero(~np.isfinite(out).all(1))[0])
        raise RowProblem(name, f"step {at} holds what is not finite", "write finite numbers, or take the row out")
    return out


def is_over(value: Any, name: str, at: str = "") -> bool:
    """Whether a cell says that an episode is over: true or false, 1 or 0, or nothing. RowProblem for what is none of
    these; `at`: which step it is of.
    """
    plain = value.item() if isinstance(value, np.generic) else value
    plain = plain.strip().lower() if isinstance(plain, str) else plain
    if plain is None or isinstance(plain, float) and math.isnan(plain):
        return False
    found = _OVER.get(plain) if isinstance(plain, bool | int | float | str) else None
    if found is None:
        what = f"{str(value)[:40]!r}{at} does not say whether the episode is over"
        raise RowProblem(name, what, "write true or false, or leave the column out")
    return found


_OVER = {True: True, False: False, "true": True, "false": False, "1": True, "0": False, "": False}  # 1 is True


def _ends_once(value: Any, name: str, count: int) -> None:
    """RowProblem where an episode is said to be over before its last step, or neither to be over nor not."""
    if not isinstance(value, list | np.ndarray):
        is_over(value, name)
        return
    over = [is_over(v, name, f" at step {t}") for t, v in enumerate(value)]
    if len(value) != count:
        what = f"it has {len(value)} entries, and the episode {count} steps"
        raise RowProblem(name, what, "write one a step, or one for the whole")
    early = [t for t, ended in enumerate(over[:-1]) if ended]
    if early:
        what = f"the episode is over at step {early[0]} of {count}: the row holds several"
        raise RowProblem(name, what, "write a row an episode, or a row a step")
