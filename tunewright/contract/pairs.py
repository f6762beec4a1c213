"""Rows with two answers of which one is preferred: how they are laid into a batch for an objective that compares them.

Plain training on such a row sees the chosen answer alone. A stage with a method that declares `pairs` reads `Pair` rows
instead: chosen and rejected lie next to each other in the batch, as two sequences of one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tunewright.contract.batch import Batch, Row
from tunewright.errors import DataError

BESIDE = ("pictures", "shown")
"""Fields of a row that both its answers are read beside: its pictures, and how they are prepared."""
ONE_ANSWER = "the row has one answer, and a method of the stage compares two"
GIVE_TWO = "give rows with prompt, chosen and rejected, or leave this source (and `replay`) out of the stage"


@dataclass(frozen=True)
class Pair(Row):
    """A row whose answer (in `input_ids`) was preferred to that of `rejected`. Its size counts both."""

    rejected: Row = field(default_factory=lambda: Row("", ""))

    @property
    def size(self) -> int:
        return max(1, len(self.input_ids)) + self.rejected.size


def paired(row: Row) -> Pair:
    """A row of kind "preference" as a pair. DataError with the row's place when it has no rejected answer."""
    if isinstance(row, Pair):
        return row
    if "rejected_ids" not in row.fields:
        raise DataError(ONE_ANSWER, where=row.id, remedy=GIVE_TWO)
    shown = {name: row.fields[name] for name in BESIDE if name in row.fields}
    rejected = Row(row.id, row.source, row.fields["rejected_ids"], row.fields["rejected_weights"], fields=shown)
    return Pair(row.id, row.source, row.input_ids, row.weights, row.label, row.fields, rejected)


class PairRows(Sequence[Row]):
    """Rows read as pairs, each when it is asked for.

    All are looked at once when this is made: DataError for the first that is none. With `some`, rows with one answer
    stay as they are.
    """

    def __init__(self, rows: Sequence[Row], *, some: bool = False):
        self.rows, self.some = rows, some
        for row in () if some else rows:
            paired(row)

    def __len__(self) -> int:
        return len(self.rows)

    def _read(self, row: Row) -> Row:
        return row if self.some and "rejected_ids" not in row.fields else paired(row)

    def __getitem__(self, i: Any) -> Any:
        return [self._read(r) for r in self.rows[i]] if isinstance(i, slice) else self._read(self.rows[i])


def rows_for(methods: Iterable[Any], rows: Sequence[Row], task: Any) -> Sequence[Row]:
    """The rows as the methods of a stage and its task read them: as pairs where one of them asks for it."""
    if any(m.pairs for m in methods):
        return PairRows(rows)
    return PairRows(rows, some=True) if task.scores else rows


def read_in_pairs(dataset: Any, methods: Iterable[Any], task: Any) -> Any:
    """A data set as a stage's methods and its task read it."""
    if any(m.pairs for m in methods):
        return paired_set(dataset)
    return paired_set(dataset, some=True) if task.scores else dataset


def paired_set(dataset: Any, *, some: bool = False) -> Any:
    """A data set whose rows are read as pairs; its tokens count both answers. `some` as in `PairRows`."""
    rows = PairRows(dataset.rows, some=some)
    counts = {**dataset.counts, "tokens": sum(r.size for r in rows)}
    return replace(
        dataset,
        rows=rows,
        hash=f"{dataset.hash}/pairs",
        counts=counts,
        parts=tuple(paired_set(p, some=some) for p in dataset.parts),
        **({} if dataset.stream is None else {"stream": dataset.stream.read_as(partial(PairRows, some=some))}),
    )


def side_by_side(
    collate: Callable[[list[Row], list[int] | None], Batch], pairs: Sequence[Any], epochs: Sequence[int] | None
) -> Batch:
    """A batch of R pairs as 2R sequences, chosen before rejected.

    `batch.rows` [S] still counts pairs; `fields["pair"]` [S] is 0 for a chosen answer's target and 1 for a rejected
    one's. Rejected labels have weight 0: an objective that knows nothing of pairs trains on the chosen answers.
    """
    flat = [side for p in pairs for side in (Row(p.id, p.source, p.input_ids, p.weights, fields=p.fields), p.rejected)]
    batch = collate(flat, None if epochs is None else [e for e in epochs for _ in range(2)])
    side = batch.rows % 2
    return batch.replace(
        weights=batch.weights * (1 - side),
        rows=batch.rows // 2,
        row_ids=batch.row_ids[::2],
        sources=batch.sources[::2],
        epochs=batch.epochs[::2],
        fields={**batch.fields, "pair": side},
    )
