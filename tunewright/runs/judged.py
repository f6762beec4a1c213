"""Which rows a run is measured on, and those of a sequence by the task that each is of."""

from __future__ import annotations

from collections.abc import Sequence

from tunewright.contract.batch import Row
from tunewright.data.dataset import Dataset
from tunewright.measure.among import AMONG
from tunewright.measure.rows import RowResult
from tunewright.recipe import Recipe
from tunewright.recipe.tasks import SequenceSpec, SequenceTask
from tunewright.runs.parted import spread
from tunewright.runs.selecting import subset
from tunewright.tasks._parts import CODED, DRAWN, NOISED


def judged(rows: Dataset | None, recipe: Recipe, labels: Sequence[str]) -> list[Row]:
    """The rows that base and tuned model are measured on: at most `measurement.rows`, of a sequence as many of each
    task; where the task of a row is known when it is asked, with the classes that its answer is one of.
    """
    if rows is None:
        return []
    most, sequence = recipe.measurement.rows, recipe.sequence
    if sequence is None:
        return as_drawn(list(rows.rows)[:most], recipe)
    parts = [places_of(rows, _sources(task)) for task in sequence.tasks]
    if most is not None:
        share = max(1, most // len(parts))
        parts = [at if len(at) <= share else [at[k] for k in spread(len(at), share)] for at in parts]
    return known_task([rows.rows[i] for i in sorted(i for at in parts for i in at)], sequence, labels)


def as_drawn(rows: list[Row], recipe: Recipe) -> list[Row]:
    """Rows with how pictures are drawn to be measured, of a task that draws some and where the recipe says it."""
    how = {name: getattr(recipe.measurement, name) for name in DRAWN}
    if how == DRAWN:
        return rows
    return [
        r.replace(fields={**r.fields, "drawing": how}) if r.fields.get("kind") in (NOISED, CODED) else r for r in rows
    ]


def known_task(rows: Sequence[Row], sequence: SequenceSpec | None, labels: Sequence[str]) -> list[Row]:
    """Rows with the classes that their answers are one of, in a task-incremental sequence; others as they are."""
    if sequence is None or sequence.scenario != "task-incremental":
        return list(rows)
    ids = {name: i for i, name in enumerate(labels)}
    allowed = [sorted(ids[c] for c in task.classes if c in ids) for task in sequence.tasks]
    owner = owners(rows, sequence)
    return [row.replace(fields={**row.fields, AMONG: allowed[j]}) for row, j in zip(rows, owner, strict=True)]


def owners(rows: Sequence[Row] | Sequence[RowResult], sequence: SequenceSpec) -> list[int]:
    """The place of each row's task."""
    of = {name: j for j, task in enumerate(sequence.tasks) for name in _sources(task)}
    return [of[row.source] for row in rows]


def learnt_by(dataset: Dataset | None, sequence: SequenceSpec | None, stage: str) -> Dataset | None:
    """Of held-out rows those of the tasks that are learnt by the end of a stage: nobody has rows of later ones then."""
    if dataset is None or sequence is None:
        return dataset
    names = {name for task in sequence.seen(stage) for name in _sources(task)}
    places = places_of(dataset, names)
    return dataset if len(places) == len(dataset.rows) else subset(dataset, places) if places else None


def _sources(task: SequenceTask) -> set[str]:
    """The names of a task's sources, whatever they are for."""
    return {*task.train, *task.validation, *task.eval}


def places_of(dataset: Dataset, names: set[str]) -> list[int]:
    """Places of the rows of some sources among all rows."""
    out, start = list[int](), 0
    for part in dataset.sources:
        out += range(start, start + len(part.rows)) if part.name in names else ()
        start += len(part.rows)
    return out
