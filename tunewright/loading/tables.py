"""How a model reads a table's rows, in a file beside its weights: `table.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunewright.errors import DataError, ModelError
from tunewright.files.regular import regular
from tunewright.tasks._parts import TABULAR

TABLE_FILE = "table.json"
_OPTIONS = {"numbers": str, "digits": int, "bins": int, "missing": str, "shuffle": bool, "columns": list}
_COLUMN = {"name": str, "shown": str, "kind": str, "values": int, "fault": str}


def written(layout: dict[str, Any], task: str) -> str:
    """A layout as the file has it; `task`: the task that reads it."""
    return json.dumps({"task": task, **layout}, indent=1, ensure_ascii=False) + "\n"


def task_in(folder: Path) -> str | None:
    """The task of a model that reads tables, by what lies in its folder; None of any other."""
    try:
        task = json.loads(regular(folder / TABLE_FILE).read_text(encoding="utf-8"))["task"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, DataError):
        return None
    return task if task in TABULAR else None


def layout_in(folder: Path, task: str) -> dict[str, Any] | None:
    """The layout of a model that reads tables; None where nothing lies in its folder. ModelError for a file that is
    broken, or of another task.
    """
    file = folder / TABLE_FILE
    if not file.exists():
        return None
    try:
        layout = json.loads(regular(file).read_text(encoding="utf-8"))
        own = layout.pop("task")
        whole = all(isinstance(layout[k], kind) for k, kind in _OPTIONS.items()) and layout["columns"]
        whole = whole and all(isinstance(c[k], kind) for c in layout["columns"] for k, kind in _COLUMN.items())
        numbers = [c for c in layout["columns"] if c["kind"] == "number"]
        units = [*numbers, *([layout["target"]] if "target" in layout else [])]
        whole = whole and all(float(u["std"]) > 0 and isinstance(u["mean"], int | float) for u in units)
        whole = whole and all(isinstance(c["edges"], list) for c in numbers)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, DataError):
        whole, own = False, task
    if not whole:
        what = "the file that says how the model reads a table is broken"
        raise ModelError(what, where=str(file), remedy="export the model again, or take the file out")
    if own != task:
        what = f"the model reads tables for {own}"
        raise ModelError(what, where=str(file), remedy=f"write task: {own}, or adapt the model that it was made from")
    return dict(layout)
