"""The tasks, one file each, found by listing this folder: the file's name with hyphens is the task's.

Other packages add theirs by the entry-point group "tunewright.tasks", whose entries name a module or a class.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from tunewright.errors import MethodError, RecipeError, did_you_mean
from tunewright.machine import installed

if TYPE_CHECKING:
    from tunewright.contract.task import Task


OWED = ("encode", "collate", "forward")
"""What every task defines itself."""


def own_names() -> list[str]:
    """Names of Tunewright's own tasks, without importing any."""
    return sorted(
        p.stem.replace("_", "-")
        for p in Path(__file__).parent.glob("*.py")
        if not p.stem.startswith("_") and p.stem != "base"
    )


def names() -> list[str]:
    """Names of the tasks, those of other packages too, without importing any."""
    return sorted({*own_names(), *installed.points(installed.TASKS)})


def get_task(name: str, problem_type: str | None = None) -> Task:
    """The task of a name, as one of its problem types (None: its first). RecipeError with the nearest name when there
    is none, and for a type that it has not; MethodError for one of another package that cannot be had.
    """
    return as_problem(_named(name), problem_type)


def as_problem(task: Task, problem_type: str | None) -> Task:
    """A task as one of its problem types; None: as it is. RecipeError where it has no such type."""
    if problem_type in (None, task.problem_type):
        return task
    cls = importlib.import_module(f"{__name__}._problems").VARIANTS.get((task.name, problem_type))
    if cls is None:
        known = f", or write one of {', '.join(task.problem_types)}" if task.problem_types else ""
        what = f"{task.name} has no problem type {problem_type}"
        raise RecipeError(what, where="data.problem_type", remedy="leave it out" + known)
    made: Task = cls()
    return made


def _named(name: str) -> Task:
    if name not in names():
        raise RecipeError(f"no task is called '{name}'", where="task", remedy=did_you_mean(name, names()))
    if name in installed.points(installed.TASKS):
        return _added(name)
    from tunewright.contract.task import Task

    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    (cls,) = [
        c
        for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, Task) and c.__module__ == module.__name__
    ]
    return cls()


@functools.cache
def _added(name: str) -> Task:
    """The task of another package. MethodError where its entry point gives none, or one that is not whole."""
    from tunewright.contract.task import Task

    point = installed.points(installed.TASKS)[name]
    cls = point.load(own_names())
    if not point.attribute:
        classes = [c for c in vars(cls).values() if isinstance(c, type) and issubclass(c, Task)]
        own = [c for c in classes if c.__module__ == point.module and not c.__name__.startswith("_")]
        if len(own) != 1:
            raise MethodError(
                f"{point.module} defines {len(own)} Task classes, not one",
                where=str(point.file or point.module),
                remedy="let the entry point name the class: module:Class",
            )
        cls = own[0]
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        raise point.wrong("Task")
    lacks = [n for n in OWED if getattr(cls, n) is getattr(Task, n)] + [
        n for n in ("name", "auto_class") if not isinstance(getattr(cls, n, None), str)
    ]
    if lacks:
        raise MethodError(
            f"the task '{name}' of {point.comes_from} does not define {', '.join(lacks)}",
            where=str(point.file or point.module),
            remedy="docs/write-a-task.md says what each of them is",
        )
    if cls.name != name:
        raise MethodError(
            f"the task '{name}' of {point.comes_from} calls itself '{cls.name}'",
            where=str(point.file or point.module),
            remedy="write the entry point's name into the class",
        )
    return cls()
