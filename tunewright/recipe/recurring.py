"""Which values the tasks of a stream have where it is drawn: tasks that come again, and blurry ones that differ."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tunewright.errors import RecipeError
from tunewright.recipe.source import Source
from tunewright.recipe.tasks import BlurrySpec, RecurringSpec, TasksSpec
from tunewright.recipe.yaml_text import Path as Keys

PAPERS = ("scole",)
TRIES = 1000
"""Draws after which it is said that no task can be without values."""


@dataclass
class Task:
    """A task before it is a stage: its sources by what they are for, its classes, other keys of `data`, and where it
    is written.
    """

    name: str
    sources: dict[str, list[Source]]
    classes: list[str]
    own: dict[str, Any] = field(default_factory=dict)
    at: Keys = ("tasks",)


@dataclass(frozen=True)
class BlurredParts:
    """Of tasks with blurry borders how many of its values each has alone (those that come first), and between which
    two of the T + 1 `ends` the draws lie of the spread rows that each learns from.
    """

    own: list[int]
    ends: list[float]

    @classmethod
    def alike(cls, spec: TasksSpec, groups: Sequence[Sequence[str]]) -> BlurredParts:
        """The same shares for all, as in i-Blurry."""
        disjoint, blur = (spec.blurry.disjoint, spec.blurry.blur) if spec.blurry is not None else (0.0, 0.0)
        tasks = len(groups)
        return cls([int(disjoint * len(g) + 1e-9) for g in groups], [blur * k / tasks for k in range(tasks + 1)])


def varying(values: Sequence[str], tasks: int, spec: BlurrySpec, here: str) -> tuple[list[list[str]], BlurredParts]:
    """The values of each task, its own first, and their parts: the values are shuffled, a share of them is cut at
    random places into what tasks have alone, the others likewise into what they share, and so are the rows that are
    spread (Si-Blurry, Moon et al. 2023, arXiv:2308.09303: OnlineSampler with varing_NM). Drawn again until no task is
    without values; RecipeError where that never comes.
    """
    rng = random.Random(f"{spec.stochastic}/blurry tasks")
    for _ in range(TRIES):
        order = rng.sample(list(values), len(values))
        alone = int(spec.disjoint * len(order) + 1e-9)
        own, shared = _cut(order[:alone], tasks, rng), _cut(order[alone:], tasks, rng)
        if all(a or b for a, b in zip(own, shared, strict=True)):
            ends = [0.0, *sorted(rng.random() * spec.blur for _ in range(tasks - 1)), spec.blur]
            return [[*a, *b] for a, b in zip(own, shared, strict=True)], BlurredParts([len(a) for a in own], ends)
    raise RecipeError(
        f"{len(values)} values are too few to be drawn for {tasks} tasks, each of which needs one",
        where=here,
        remedy=f"write count: {max(2, len(values) // 3)}, or leave stochastic out",
    )


def _cut(order: Sequence[str], tasks: int, rng: random.Random) -> list[list[str]]:
    """Consecutive parts of random lengths, of which some may be empty."""
    at = [0, *sorted(rng.randrange(len(order)) if order else 0 for _ in range(tasks - 1)), len(order)]
    return [list(order[a:b]) for a, b in zip(at, at[1:], strict=False)]


def recurring(values: Sequence[Task], spec: RecurringSpec, here: str) -> list[Task]:
    """The tasks that come, of the column's values as tasks of one each: for each a few values without replacement, and
    of their rows those whose draw lies in a window of `share`, anew each time. RecipeError for what cannot be drawn,
    and for values that never come.
    """
    if spec.values > len(values):
        raise RecipeError(
            f"{spec.values} values a task were asked for, and there are {len(values)}",
            where=here,
            remedy=f"write recurring.values: {len(values)} or fewer",
        )
    if any(s.share is not None for of in values for s in of.sources["train"]):
        raise RecipeError("a source has a share of its own", where=here, remedy="remove share, or recurring")
    rng, made, came = random.Random(f"{spec.seed}/recurring tasks"), list[Task](), set[str]()
    for i in range(spec.tasks):
        drawn = [values[k] for k in sorted(rng.sample(range(len(values)), spec.values))]
        came |= {of.name for of in drawn}
        train = []
        for of in drawn:
            start = rng.random() * (1 - spec.share)
            window = {"share": (start, start + spec.share)} if spec.share < 1 else {}
            train += [s.model_copy(update=window) for s in of.sources["train"]]
        classes = list(dict.fromkeys(c for of in drawn for c in of.classes))
        made.append(Task(f"task-{i + 1}", {"train": train}, classes))
    if lost := [of.name for of in values if of.name not in came]:
        raise RecipeError(
            f"in {spec.tasks} tasks of {spec.values} values {len(lost)} of {len(values)} never come ('{lost[0]}')",
            where=here,
            remedy="write more recurring.tasks or values, or another recurring.seed",
        )
    return made
