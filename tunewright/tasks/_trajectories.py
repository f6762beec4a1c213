"""Trajectories of an agent, and the windows that a policy reads of them.

A trajectory is one episode: at step t the agent sees o_t, does a_t and gets the reward r_t. The return-to-go of a step
is the sum of its own and all later rewards, without discount (Chen et al. 2021, "Decision Transformer: Reinforcement
Learning via Sequence Modeling", section 3). It is divided by `return_scale`; observations have `state_mean` taken off
and are divided by `state_std`, as the reference does it (a millionth is added to the deviation there: none is here, and
a channel that never changes is divided by 1).

A window has K steps side by side of one episode; the last one of an episode is shorter where they do not divide it.

Shapes: T steps of a trajectory, K steps of a window, D numbers of an observation, A of an action (or actions to choose
from).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.contract.records import RowProblem
from tunewright.tasks._parts import CONTINUOUS, DISCRETE

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One episode: `observations` [T, D], `actions` [T] (whole numbers) or [T, A], `rewards` [T]."""

    observations: Values
    actions: NDArray[Any]
    rewards: Values

    def __eq__(self, other: object) -> bool:
        def said(one: Trajectory) -> list[tuple[Any, ...]]:
            return [(x.shape, x.dtype.kind, x.tobytes()) for x in (one.observations, one.actions, one.rewards)]

        return isinstance(other, Trajectory) and said(self) == said(other)

    @property
    def space(self) -> str:
        """What its actions are: `DISCRETE` or `CONTINUOUS`."""
        return DISCRETE if self.actions.ndim == 1 else CONTINUOUS

    @property
    def total(self) -> float:
        """Its return: the sum of its rewards."""
        return float(self.rewards.sum())

    def returns_to_go(self) -> Values:
        """[T] the sum of each step's own and all later rewards."""
        return np.cumsum(self.rewards[::-1])[::-1]


@dataclass(frozen=True, eq=False)
class Window:
    """The steps of a trajectory from `start` on, `length` of them."""

    trajectory: Trajectory
    name: str
    start: int
    length: int


def windows(trajectory: Trajectory, name: str, options: Mapping[str, Any]) -> Iterator[Window]:
    """The windows of a trajectory, `stride` steps apart, at most `context` steps each; every step is in one at least.
    RowProblem for a trajectory that the model cannot read.
    """
    fits(trajectory, options)
    steps, context, stride = len(trajectory.rewards), int(options["context"]), int(options["stride"])
    for start in range(0, steps, stride):
        yield Window(trajectory, name, start, min(context, steps - start))
        if start + context >= steps:
            return


def fits(trajectory: Trajectory, options: Mapping[str, Any]) -> None:
    """RowProblem where a trajectory has other sizes, or actions of another kind, than the model."""
    wide, states, actions = trajectory.observations.shape[1], int(options["state_dim"]), int(options["act_dim"])
    if wide != states:
        raise RowProblem(
            "observations",
            f"an observation has {_numbers(wide)}, and the model reads {states} (state_dim)",
            "give rows of the environment that the model is of, or take another model",
        )
    if (longest := len(trajectory.rewards)) > int(options["max_ep_len"]):
        raise RowProblem(
            "observations",
            f"it has {longest} steps, and the model knows the times of {options['max_ep_len']} (max_ep_len)",
            "cut the episode, or leave it out (data.bad_rows: skip)",
        )
    if trajectory.space != options["action_space"]:
        first = trajectory.actions[0]
        is_ = _said(trajectory.space, 1 if trajectory.space == DISCRETE else len(first))
        wanted = _said(str(options["action_space"]), actions)
        shown = json.dumps(first.tolist() if first.size > 1 else first.item())
        raise RowProblem(
            "actions",
            f"its actions are {is_} (the first is {shown}), and those of the model are {wanted}",
            "write whole numbers from 0 for actions to choose from; for others a number each, or a list of several",
        )
    if trajectory.space == CONTINUOUS:
        if trajectory.actions.shape[1] != actions:
            what = f"an action has {_numbers(trajectory.actions.shape[1])}, and the model's have {actions} (act_dim)"
            raise RowProblem("actions", what, "give rows of the environment that the model is of")
        return
    unknown = (trajectory.actions < 0) | (trajectory.actions >= actions)
    if unknown.any():
        at = int(np.flatnonzero(unknown)[0])
        what = f"action {trajectory.actions[at]} at step {at} is none of the model's {actions} (act_dim), 0 to"
        raise RowProblem("actions", f"{what} {actions - 1}", "write the number of an action")


def _said(space: str, wide: int) -> str:
    """What actions of a kind, of so many numbers each, are."""
    if space == DISCRETE:
        return "whole numbers, which of some to choose"
    return "numbers that are not chosen from" if wide == 1 else f"lists of {wide} numbers"


def _numbers(count: int) -> str:
    return "1 number" if count == 1 else f"{count} numbers"


def standardised(observations: Values, options: Mapping[str, Any]) -> NDArray[np.float32]:
    """[., D] observations as the model reads them."""
    out = (observations - np.array(options["state_mean"])) / np.array(options["state_std"])
    return out.astype(np.float32)


@dataclass
class Facts:
    """What is gathered of training trajectories, step by step: what a model's config does not say of its inputs."""

    count: int = 0
    sums: Any = 0.0
    squares: Any = 0.0
    actions: Any = 0.0
    action_squares: Any = 0.0
    largest: float = 0.0
    best: float = -np.inf
    space: str = ""

    def add(self, one: Trajectory) -> None:
        """A trajectory more. Its sizes are those of the first."""
        self.space = self.space or one.space
        self.count += len(one.rewards)
        self.sums, self.squares = self.sums + one.observations.sum(0), self.squares + (one.observations**2).sum(0)
        if one.space == CONTINUOUS:
            self.actions = self.actions + one.actions.sum(0)
            self.action_squares = self.action_squares + (one.actions**2).sum(0)
        self.largest = max(self.largest, float(np.abs(one.returns_to_go()).max()))
        self.best = max(self.best, one.total)

    def said(self) -> dict[str, Any]:
        """By the names of the config: means and deviations of states (of actions, where they are numbers), the largest
        return-to-go as the scale, the kind of the actions.
        """
        mean, std = _moments(self.count, self.sums, self.squares)
        out: dict[str, Any] = {"action_space": self.space, "return_scale": self.largest or 1.0}
        out |= {"state_mean": mean, "state_std": std}
        if self.space == CONTINUOUS:
            out["action_std"] = _moments(self.count, self.actions, self.action_squares)[1]
        return out


def _moments(count: int, sums: Values, squares: Values) -> tuple[list[float], list[float]]:
    """(means, standard deviations, 1 where there is none), to seven digits, as a recipe holds them."""
    mean = sums / count
    spread = np.sqrt(np.maximum(squares / count - mean**2, 0))
    # what rounding leaves of a channel that never changes is no spread
    std = np.where(spread > 1e-6 * np.maximum(1.0, np.abs(mean)), spread, 1.0)
    return [[float(f"{x:.7g}") for x in values] for values in (mean, std)]  # type: ignore[return-value]
