"""Rows held out from training for choices in it: sources of their own, or a share of the training rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tunewright.contract.task import Task
from tunewright.data.dataset import Dataset
from tunewright.data.position import permutation
from tunewright.errors import DataError
from tunewright.recipe import Recipe, Source
from tunewright.runs.judged import places_of
from tunewright.runs.selecting import subset, whole_queries


def held_out(
    recipe: Recipe, rows: Dataset, task: Task, read: Callable[[Sequence[Source]], Dataset]
) -> tuple[Dataset, Dataset | None]:
    """(the training rows that are left, those that are held out; None where the recipe asks for none). Of a sequence of
    tasks the share is taken of each task's rows.
    """
    validation, sequence = recipe.data.validation, recipe.sequence
    if validation is None:
        return rows, None
    if not isinstance(validation, int | float):
        return rows, read(validation)
    order = permutation(len(rows.rows), recipe.train.seed, "validation", 0)
    indices = _first(order, validation)
    if task.ranks:  # whole queries: the passages of one are ranked together
        indices = whole_queries(rows, order, len(indices))
    elif sequence is not None:
        each = [set(places_of(rows, set(t.train))) for t in sequence.tasks]
        indices = {i for own in each for i in _first([k for k in order if k in own], validation)}
    if len(indices) >= len(order):
        raise DataError(
            f"a share of {validation:.0%} leaves no row to train on",
            where="data.validation",
            remedy="write a smaller share, or a file",
        )
    return subset(rows, [i for i in range(len(order)) if i not in indices]), subset(rows, sorted(indices))


def _first(order: Sequence[int], share: float) -> set[int]:
    """A share of places, one at least, in an order that was drawn."""
    return set(order[: max(1, round(share * len(order)))])
