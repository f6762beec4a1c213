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
from tunewright.runs.tables import held_rows
from tunewright.tasks._parts import FORECASTING, PLAYING, TABULAR


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
    if task.is_a(FORECASTING):
        return by_time(rows, validation)
    if task.is_a(PLAYING):  # whole episodes: windows of one overlap, and say much of one another
        indices = whole_queries(rows, order, len(indices), "trajectory")
    elif recipe.task in TABULAR:  # drawn before anything was learnt of the rows
        held = held_rows(recipe)
        indices = {i for i, row in enumerate(rows.rows) if (row.source, row.id) in held}
    elif task.ranks:  # whole queries: the passages of one are ranked together
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


def by_time(rows: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """(the windows that are left, the last ones of each series): of these every one whose targets are forecast behind
    all others', one target's length apart, so that none is learnt from. DataError where nothing is left.
    """
    by_series: dict[tuple[str, str], list[tuple[int, int]]] = {}
    length = 0
    for i, row in enumerate(rows.rows):
        by_series.setdefault((row.source, row.fields["series"]), []).append((int(row.fields["at"]), i))
        length = len(row.fields["future"])
    learnt, judged = list[int](), list[int]()
    for places in by_series.values():
        places.sort()
        wanted = max(1, round(share * len(places)))
        last = places[-1][0]
        first = max(places[-wanted][0], places[0][0])
        ends = {at: i for at, i in places if at >= first and (last - at) % length == 0}
        start = min(ends)
        judged += ends.values()
        learnt += [i for at, i in places if at + length <= start]
    if not learnt:
        raise DataError(
            f"the last {share:.0%} of the windows, and those whose targets reach into them, leave none to train on",
            where="data.validation",
            remedy="write a smaller share, or a file",
        )
    return subset(rows, sorted(learnt)), subset(rows, sorted(judged))


def _first(order: Sequence[int], share: float) -> set[int]:
    """A share of places, one at least, in an order that was drawn."""
    return set(order[: max(1, round(share * len(order)))])
