"""The tasks, one file each, found by listing this folder: the file's name with hyphens is the task's."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from tunewright.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from tunewright.contract.task import Task


def names() -> list[str]:
    """Names of the tasks, without importing any."""
    return sorted(
        p.stem.replace("_", "-")
        for p in Path(__file__).parent.glob("*.py")
        if not p.stem.startswith("_") and p.stem != "base"
    )


def get_task(name: str) -> Task:
    """The task of a name. RecipeError with the nearest name when there is none."""
    if name not in names():
        raise RecipeError(f"no task is called '{name}'", where="task", remedy=did_you_mean(name, names()))
    from tunewright.contract.task import Task

    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    (cls,) = [
        c
        for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, Task) and c.__module__ == module.__name__
    ]
    return cls()
