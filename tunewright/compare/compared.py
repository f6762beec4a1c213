"""What this project's own comparison of the parameter-efficient family found of a method (docs/family.md)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from tunewright.compare.suggested import Beside

FILE = Path(__file__).with_name("compared.json")
"""Made by `python -m benchmarks.family --page`."""


def of_method(name: str) -> list[Beside]:
    """How far from `lora` it ended, on each task that it was compared on; empty where it was not."""
    return _known().get(name, [])


def said(found: list[Beside]) -> str:
    """In few words, in points of a hundred: "+0.7 domains, -1.8 answers*"; a star where the interval leaves out 0."""
    return ", ".join(f"{100 * b.difference:+.1f} {b.task}{'*' if told_apart(b.low, b.high) else ''}" for b in found)


def told_apart(low: float, high: float) -> bool:
    """Whether an interval leaves out 0. One without a width, where few seeds happen to agree to the row, tells
    nothing.
    """
    return high - low > 1e-9 and (low > 0 or high < 0)


@cache
def _known() -> dict[str, list[Beside]]:
    found: dict[str, list[Beside]] = {}
    for row in json.loads(FILE.read_text(encoding="utf-8")):
        found.setdefault(row.pop("method"), []).append(Beside(**row))
    return found
