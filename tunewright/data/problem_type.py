"""Which problem a classification task is of these rows: one class a row, any number of labels, or a number."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tunewright.contract.records import finite
from tunewright.contract.task import MULTI_LABEL, REGRESSION, Task
from tunewright.data.read import SourceLike, read_lazily
from tunewright.errors import TunewrightError
from tunewright.tasks import own_names

LOOKED_AT = 200
"""Rows of each source that it is told by."""
FRACTIONS = 0.1
"""The share of labels with a fraction from which on numbers are no classes, and up to which others are slips."""


def problem_type(
    task: Task, sources: Sequence[SourceLike], base: Path | str = ".", labels: Sequence[str] | None = None
) -> str | None:
    """The problem type of a task's rows, by the first of them; None where the task has one alone.

    Lists of labels, or a column for each of `labels`: `multi_label_classification`. Labels of which a tenth or more
    have a fraction and a tenth at most are no numbers, or a `score` where there is no label: `regression`. All others,
    and rows of which none can be read (which is said where they are encoded): `single_label_classification`.
    """
    if not task.problem_types or task.name not in own_names():
        return None
    rows = list[Any]()
    for source in sources:
        if source.path.startswith("make:"):
            continue
        try:
            rows += islice(read_lazily(source, base).records, LOOKED_AT)
        except (TunewrightError, OSError):
            continue
    given = [r.get("labels", r.get("label")) for r in rows]
    if any(isinstance(value, list) for value in given):
        return MULTI_LABEL
    if all(value is None for value in given):
        if labels and rows and all(label in rows[0] for label in labels):
            return MULTI_LABEL
        given = [r.get("score") for r in rows]
        return REGRESSION if rows and all(finite(value) is not None for value in given) else task.problem_type
    numbers = [None if isinstance(value, bool) else finite(value) for value in given]
    fractions = sum(number is not None and number != round(number) for number in numbers)
    others = numbers.count(None) - sum(value is None for value in given)  # names, or slips among numbers
    apart = labels is None and fractions >= FRACTIONS * len(numbers) and others <= FRACTIONS * len(numbers)
    return REGRESSION if apart else task.problem_type
