"""A gate's verdict in words: for a terminal, and as one line of JSON."""

from __future__ import annotations

import json
from typing import Any

from tunewright.report import words
from tunewright.report.gated import Condition, Gate


def conditions(gate: Gate) -> list[tuple[str, str]]:
    """(the condition, its verdict with the figure) of each."""
    return [(f"{c.figure} {c.bound}", f"{c.verdict}: {_measured(c)}") for c in gate.conditions]


def lines(gate: Gate) -> list[str]:
    """One line a condition, then the verdict on all."""
    said = conditions(gate)
    wide = max((len(name) for name, _ in said), default=0)
    return [*(f"{name.ljust(wide)}  {verdict}" for name, verdict in said), f"gate: {gate.verdict}"]


def _measured(c: Condition) -> str:
    """The figure with its interval in its unit, and how many more rows would tell."""
    value, change = c.measured.value, c.of == "change"
    unit = words.unit_of(c.unit, difference=change)
    text = ("changed by " if change else "is ") + words.score(value, c.unit, sign=change)
    text += f" {unit}" if unit and unit != "1" else ""
    text += f" ({span})" if (span := words.span(c.measured, c.unit)) else ""
    if c.verdict != "cannot tell":
        return text
    kind = "questions" if c.asked else words.KINDS[c.measured.unit]
    if c.more is None:
        return f"{text}; more {kind} would not tell"
    copied = ": write them into a copy of the pack" if c.asked else ""
    return f"{text}; about {c.more:,} more {kind} would tell, were it to stay there{copied}"


def one_line(gate: Gate, what: str) -> str:
    """JSON for scripts: what was judged, the verdict, every condition."""
    value: dict[str, Any] = {"of": what, **gate.model_dump()}
    return json.dumps(value, ensure_ascii=False)
