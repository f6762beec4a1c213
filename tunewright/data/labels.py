"""Which labels the rows of sources have: the classes of a task, and what is judged that no row teaches."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from tunewright.contract.records import RowProblem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.data.places import as_written
from tunewright.data.read import SourceLike, read_lazily
from tunewright.data.shapes import named_for
from tunewright.errors import DataError
from tunewright.tasks.base import discover_labels, is_missing, label_name


def labels_of(sources: Sequence[SourceLike], base: Path | str = ".", task: Task | None = None) -> tuple[str, ...]:
    """Class names of labelled sources, in the order of their ids, as a task (none: a column `label`) finds them."""
    records = (r for s in sources for r in read_lazily(s, base).records)
    labels = discover_labels(records, (task or Task()).label_values)
    if not labels:
        if task is not None and task.reads_files and task.per_token:
            _refuse_unread(sources, base, task)
        _refuse_columns(sources, base)
        raise DataError(
            "no row has a label",
            where=", ".join(s.path for s in sources),
            remedy=(named_for(task.name) if task is not None else "")
            or "name the column: columns: {label: your_column}",
        )
    return labels


def _refuse_columns(sources: Sequence[SourceLike], base: Path | str) -> None:
    """The problem of a source none of whose rows can be read for what its `columns` say; nothing where none is."""
    for source in (s for s in sources if s.columns):
        read = read_lazily(source, base)
        if next(iter(read.records), None) is None and read.problems:
            raise as_written(read.problems[0], source).error()


def _refuse_unread(sources: Sequence[SourceLike], base: Path | str, task: Task) -> None:
    """What is wrong with the first row of sources whose labels stand in other files; nothing where nothing is."""
    first = next((r for s in sources for r in read_lazily(s, base).records), None)
    if first is None:
        return
    try:
        task.encode(first, None, EncodeOptions(labels=("0", "1")))
    except RowProblem as problem:
        raise problem.at(first.where).error() from None


def unlearnt(train: Sequence[SourceLike], judged: Sequence[SourceLike], base: Path | str, task: Task) -> list[str]:
    """Labels of rows that are judged which no training row has. Reads these only until each label was found."""

    def names(source: SourceLike) -> Iterator[str]:
        for record in read_lazily(source, base).records:
            for value in task.label_values(record):
                if not is_missing(value):
                    yield label_name(value)
                if isinstance(value, bool):  # means the class of that name, too
                    yield from (str(value), str(value).lower())

    new = {
        label_name(v)
        for source in judged
        for record in read_lazily(source, base).records
        for v in task.label_values(record)
        if not is_missing(v)
    }
    for name in (name for source in train for name in names(source)):
        new.discard(name)
        if not new:
            break
    return sorted(new)


def shares_label(sources: Sequence[SourceLike], known: Collection[str], base: Path | str, task: Task) -> bool:
    """Whether any labelled row has one of the classes `known`; reads up to the first, True where no row has a label."""
    values = (v for s in sources for r in read_lazily(s, base).records for v in task.label_values(r))
    labelled = False
    for value in values:
        if not is_missing(value):
            labelled = True
            if label_name(value) in known:
                return True
    return not labelled
