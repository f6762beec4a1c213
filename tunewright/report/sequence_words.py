"""A sequence of tasks in words and cells, once for the terminal and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from tunewright.measure.intervals import Interval
from tunewright.report import words
from tunewright.report.schema import Report
from tunewright.report.sequenced import AfterTask, SequenceReport

MOST = 10
"""Tasks whose matrix a terminal shows; of more a line a task."""
LINES = 24
"""Stages whose lines a terminal shows; of more these many, evenly spread."""
WITH_ENDS = 4
"""Tasks up to which a terminal shows the ends of each cell's interval."""
R = TypeVar("R")
_FIGURES = (
    ("accuracy", "ACC: mean over tasks, at the end", False, "the last row of the matrix"),
    (
        "incremental_accuracy",
        "average incremental: mean over seen tasks, after each",
        False,
        "each row's mean over the tasks seen by then, averaged",
    ),
    ("backward_transfer", "backward transfer (BWT), + is better", True, "what later tasks changed of earlier ones"),
    (
        "forward_transfer",
        "forward transfer (FWT), + is better",
        True,
        "what earlier tasks gave to one before it was learnt",
    ),
    ("forgetting", "forgetting, + is worse", True, "how far tasks end below the best that they ever were"),
    ("accumulation", "accumulation, + is better", True, "ACC at the end beyond ACC after the first stage"),
)


@dataclass(frozen=True)
class Figure:
    """One figure of a sequence as text: value, ends of its interval, what it means, and better, worse or same."""

    name: str
    value: str
    ends: str
    meaning: str
    fate: str = ""


@dataclass(frozen=True)
class MatrixCell:
    """A cell of the matrix: its text, how dark it is drawn (0 to 1: the better, the darker), and whether its task was
    just learnt (`own`) or is still to be learnt (`ahead`).
    """

    value: str
    ends: str
    shade: float
    own: bool
    ahead: bool


def figures(report: Report) -> list[Figure]:
    """What follows from the matrix, a line each; none where there is no sequence."""
    sequence, target = report.sequence, report.target
    if sequence is None or target is None:
        return []
    out = []
    for key, name, change, meaning in _FIGURES:
        found: Interval | None = getattr(sequence, key)
        if found is not None:
            value = words.score(found.value, target.unit, sign=change)
            unit = words.unit_of(target.unit, difference=change)
            out.append(Figure(name, value, words.span(found, target.unit), _with(meaning, unit), _fate(key, found)))
    return out


def _with(meaning: str, unit: str) -> str:
    return f"{meaning}; {unit}" if unit and unit != "1" else meaning


def _fate(key: str, found: Interval) -> str:
    if key in ("accuracy", "incremental_accuracy") or not found.excludes(0.0):
        return ""
    return "better" if (found.value > 0) == (key != "forgetting") else "worse"


def matrix(report: Report) -> list[tuple[str, list[MatrixCell]]]:
    """The rows of the matrix with their names."""
    sequence, target = report.sequence, report.target
    if sequence is None or target is None:
        return []
    every = [c.value for row in sequence.matrix for c in row if c is not None]
    low, high = (0.0, 1.0) if target.unit == "fraction" else (min(every), max(every))
    turned = target.direction == "lower"
    whole = len(sequence.rows) == len(sequence.tasks) + 1 and sequence.recurring is None

    def cell(found: Interval | None, i: int, j: int) -> MatrixCell:
        if found is None:
            return MatrixCell("", "", 0.0, False, False)
        shade = (found.value - low) / (high - low) if high > low else 0.0
        return MatrixCell(
            words.score(found.value, target.unit),
            words.span(found, target.unit),
            round(min(1.0, max(0.0, 1 - shade if turned else shade)), 3),
            whole and i == j + 1,
            whole and i < j + 1,
        )

    return [
        (name, [cell(found, i, j) for j, found in enumerate(row)])
        for i, (name, row) in enumerate(zip(sequence.rows, sequence.matrix, strict=True))
    ]


def thinned(rows: Sequence[R], most: int = LINES) -> list[R]:
    """At most so many rows, spread evenly, the first two (base and first stage) and the last among them."""
    if len(rows) <= most:
        return list(rows)
    places = {0, *(1 + round(k * (len(rows) - 2) / (most - 2)) for k in range(most - 1))}
    return [rows[i] for i in sorted(places)]


def by_task(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    """A line a task, for sequences whose matrix is too wide: base, after its own, at the end."""
    rows, sequence = matrix(report), report.sequence
    if sequence is None:
        return []
    out = []
    for j, task in enumerate(sequence.tasks):
        own = rows[j + 1][1][j] if len(rows) == len(sequence.tasks) + 1 else rows[-1][1][j]
        out.append((task, [(c.value, c.ends) for c in (rows[0][1][j], own, rows[-1][1][j])]))
    return out


def told(sequence: SequenceReport) -> str:
    """What the sequence is, in a sentence."""
    scenario = f", {sequence.scenario}" if sequence.scenario else ""
    cut = f", the rows cut by {sequence.by}" if sequence.by else ""
    blurry = sequence.blurry
    mixed = (
        f" {100 * blurry[0]:g} % of a task's values are its own; of the others' rows {100 * blurry[1]:g} % are spread "
        "over all tasks."
        if blurry is not None
        else ""
    )
    if sequence.recurring is not None:
        return f"{len(sequence.tasks)} tasks that come again in {sequence.recurring} stages{cut}; {sequence.ordered}."
    return f"{len(sequence.tasks)} tasks{scenario}{cut}; their order: {sequence.ordered}.{mixed}"


def after(report: Report) -> tuple[list[str], list[tuple[str, list[tuple[str, str]]]]]:
    """The columns and rows of what each task cost and left: (value, ends) as text; columns without figures are left
    out.
    """
    sequence = report.sequence
    if sequence is None or not sequence.after:
        return [], []
    unit = next((k.unit for k in report.kept), "nats")
    names = list(dict.fromkeys(n for one in sequence.after for n in one.kept))

    def value(found: Interval | None, of: str) -> tuple[str, str]:
        return ("", "") if found is None else (words.score(found.value, of), words.span(found, of))

    def cells(one: AfterTask) -> list[tuple[str, str]]:
        general = [*(value(one.kept.get(n), unit) for n in names), value(one.drift, "nats")]
        rows = f"{one.replayed_rows:,}" if one.replayed_rows else ""
        held = words.size(one.held_bytes) if one.held_bytes else ""
        return [(words.seconds(one.seconds), ""), (words.size(one.change_bytes), ""), (held, ""), (rows, ""), *general]

    columns = ["in steps", "changed", "held", "rows replayed", *(f"loss on {n}" for n in names), "drift"]
    rows = [(one.name, cells(one)) for one in sequence.after]
    kept = [k for k in range(len(columns)) if any(row[1][k][0] for row in rows)]
    return [columns[k] for k in kept], [(name, [row[k] for k in kept]) for name, row in rows]
