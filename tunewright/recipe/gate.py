"""What a gate asks of a tuned model, as it is written: `target: ">= 0.85"`, `kept.general: "no worse by 0.05"`.

A bound is on the tuned model's own figure (`>=`, `<=`, in the figure's unit; "85 %" is 0.85), or on its difference from
the other model (`no worse by X`, `better by X`, by which way is better for the figure).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tunewright.errors import RecipeError, did_you_mean

FIGURES = ("target", "drift", "calibration")
KEPT = "kept."
TASK = "task."
"""Of a figure of lm-evaluation-harness: task.NAME (its first metric), or task.NAME/METRIC."""
_ABSOLUTE = re.compile(r"^\s*(>=|<=|>|<)\s*([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)\s*(%?)\s*$", re.IGNORECASE)
_CHANGE = re.compile(
    r"^\s*(no\s+worse|better)(?:\s+by\s+(?:more\s+than\s+)?([0-9.]+(?:e[-+]?[0-9]+)?)\s*(%?))?\s*$", re.IGNORECASE
)
_SAYS = "write '>= 0.85' or '<= 1.0' of the tuned model itself, 'no worse by 0.02' or 'better by 0.02' of the change"


@dataclass(frozen=True)
class Bound:
    """One condition.

    `of` "after": the tuned model's figure is at least (or at most) `value`. `of` "change": the change in the direction
    that is better is at least `value`, which is negative for "no worse by".
    """

    figure: str
    said: str
    of: Literal["after", "change"]
    at_least: bool
    value: float


def bound(figure: str, said: str, where: str = "gate") -> Bound:
    """A condition as it is written. RecipeError for one that cannot be read, or that the figure cannot meet."""
    where = f"{where}.{figure}"
    if figure not in FIGURES and not (figure.startswith((KEPT, TASK)) and figure not in (KEPT, TASK)):
        known = [*FIGURES, "kept.NAME", "task.NAME"]
        raise RecipeError(f"a gate has no figure '{figure}'", where=where, remedy=did_you_mean(figure, known))
    if m := _ABSOLUTE.match(said):
        value = _number(m[2], m[3], said, where)
        return Bound(figure, said.strip(), "after", m[1].startswith(">"), value)
    m = _CHANGE.match(said)
    if m is None:
        raise RecipeError(f"'{said}' is no condition", where=where, remedy=_SAYS)
    if figure == "drift":
        what = "drift is a distance from the base: it has no figure before, to be worse or better than"
        raise RecipeError(what, where=where, remedy="write drift: '<= 1.0'")
    value = _number(m[2] or "0", m[3] or "", said, where)
    return Bound(figure, said.strip(), "change", True, value if m[1].lower() == "better" else -value)


def bounds(gate: Mapping[str, str], where: str = "gate") -> list[Bound]:
    """All conditions of a gate. RecipeError for the first that is not valid."""
    return [bound(figure, said, where) for figure, said in gate.items()]


def fault_of(gate: Mapping[str, str] | None, kept: Sequence[str], measured: bool) -> tuple[str, RecipeError] | None:
    """The first figure of a recipe's gate that cannot be judged, and why: one that is no figure, kept text that the
    recipe does not keep, a target without rows to measure it on.
    """
    for figure, said in (gate or {}).items():
        try:
            bound(figure, said)
            if figure == "calibration" or figure.startswith(TASK):
                what = "a run's report has no calibration to judge"
                if figure != "calibration":
                    what = "a run does not evaluate the harness's tasks"
                raise RecipeError(what, remedy="measure two models: `tunewright measure A B --require ...`")
            if figure.startswith(KEPT) and figure.removeprefix(KEPT) not in kept:
                what = f"the recipe keeps nothing called '{figure.removeprefix(KEPT)}'"
                raise RecipeError(what, remedy=did_you_mean(figure, [KEPT + k for k in kept]))
            if figure == "target" and not measured:
                raise RecipeError("there are no rows to measure the target on", remedy="write data.eval: FILE")
        except RecipeError as e:
            return figure, e
    return None


def _number(text: str, per_cent: str, said: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RecipeError(f"'{said}' holds no number that can be read", where=where, remedy=_SAYS)
    return value / 100 if per_cent else value
