"""metrics.jsonl as columns, for curves that grow."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.report.figures import timeline

COLUMNS = ("loss", "eval_loss", "eval_target", "learning_rate", "grad_norm", "tokens_per_second")
MOST = 4000
"""Points of a curve; of more, every second, third ... is left out, evaluations never."""
TAIL = 32 << 20
"""Bytes of a file that are read: its last ones."""


def mark(file: Path) -> str:
    """What changes when the file grows or is written anew (as a run that is resumed does)."""
    status = os.stat(file)
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"


def read(file: Path) -> list[Mapping[str, Any]]:
    """The file's records. Half a line at its end, and lines that are no records, are passed over."""
    with open(file, "rb") as f:
        start = max(0, os.fstat(f.fileno()).st_size - TAIL)
        f.seek(start)
        lines = f.read(TAIL).split(b"\n")
    return [r for line in lines[1 if start else 0 :] if (r := _record(line))]


def _record(line: bytes) -> Mapping[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    return {k: v for k, v in record.items() if not isinstance(v, float) or math.isfinite(v)}


def columns(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Steps that never go back (`figures.timeline`), a list a column beside them (null: not noted), and where stages
    begin.
    """
    steps, marks = timeline(records)
    every = math.ceil(len(records) / MOST) or 1
    kept = [i for i, r in enumerate(records) if i % every == 0 or i == len(records) - 1 or "eval_loss" in r]
    found = {name: [_number(records[i].get(name)) for i in kept] for name in COLUMNS}
    return {
        "step": [steps[i] for i in kept],
        "columns": {name: values for name, values in found.items() if any(v is not None for v in values)},
        "stages": [[step, name] for step, name in marks],
    }


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None
