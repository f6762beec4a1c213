"""Which training rows are used: the selectors of `data.select`, in order, each seeing what the one before left.

A selector's `select(records, target, readers, rng)` gets the records whose rows would be trained on and returns the
indices of those to keep, in the order to keep them in, or (indices, weights): each weight above 0 multiplies the loss
weights of that record's rows; or `Selected`, with scores and reasons. `target` holds records of what is to be learnt,
never those that the run is measured on (`aiming.py`). From the first selector on that asks for `readers`, selectors
wait for their stage to begin (`selected.py`): they read records with the model that it starts from.
"""

from __future__ import annotations

import hashlib
import math
import operator
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tunewright import catalogue
from tunewright.contract.batch import Row
from tunewright.contract.combining import check_serves
from tunewright.contract.method import Method, arguments, call, reads_records
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.contract.slot import SLOTS
from tunewright.data.dataset import Dataset
from tunewright.data.order import sizes
from tunewright.data.read import SourceLike, read_all
from tunewright.data.truncate import trained_tokens
from tunewright.errors import DataError, MethodError
from tunewright.models.flops import counting
from tunewright.pieces.each_row import EachRow
from tunewright.recipe import MethodUse, Recipe
from tunewright.runs.sources import task_for

START = "start"
"""What a selector calls the model that its stage starts from."""
Key = tuple[str, str]


class _View(Sequence[Row]):
    """Some rows of a sequence, in an order of their own, with factors on their loss weights."""

    def __init__(self, rows: Sequence[Row], indices: Sequence[int], factors: Sequence[float] | None):
        self.rows, self.indices, self.factors = rows, indices, factors

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return np.asarray(sizes(self.rows), dtype=np.int64)[list(self.indices)]

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        row = self.rows[self.indices[i]]
        factor = 1.0 if self.factors is None else self.factors[i]
        return row if factor == 1.0 else replace(row, weights=[w * factor for w in row.weights])


def whole_queries(rows: Dataset, order: Sequence[int], count: int, of: str = "query") -> set[int]:
    """At least `count` rows in this order, each with all others of its query (or of what its field `of` says); a row
    that has none is alone.
    """
    queries = [row.fields.get(of, (i,)) for i, row in enumerate(rows.rows)]
    held: set[Any] = set()
    out: set[int] = set()
    for i in order:
        if len(out) >= count:
            break
        if queries[i] not in held:
            held.add(queries[i])
            out |= {k for k, query in enumerate(queries) if query == queries[i]}
    return out


def subset(dataset: Dataset, indices: Sequence[int], factors: Sequence[float] | None = None) -> Dataset:
    """The rows at `indices` (over all sources, in order), each source with its name and weight; one with none is
    left out.
    """
    parts, start = [], 0
    for part in dataset.sources:
        places = [k for k, i in enumerate(indices) if start <= i < start + len(part.rows)]
        if places:
            parts.append(
                _part(
                    part,
                    [indices[k] - start for k in places],
                    None if factors is None else [factors[k] for k in places],
                )
            )
        start += len(part.rows)
    if len(parts) == 1:
        return parts[0]
    if not parts:
        raise DataError("no row is left to train on", where=dataset.name, remedy="let data.select keep more")
    counts = {k: sum(p.counts[k] for p in parts) for k in parts[0].counts}
    joined = hashlib.sha256("".join(p.hash for p in parts).encode()).hexdigest()
    rows = [row for p in parts for row in p.rows]
    return Dataset(
        " + ".join(p.name for p in parts), rows, joined, counts, parts=tuple(parts), problems=dataset.problems
    )


def _part(part: Dataset, indices: list[int], factors: list[float] | None) -> Dataset:
    view = _View(part.rows, indices, factors)
    counts = {
        **part.counts,
        "rows": len(view),
        "tokens": sum(r.size for r in view),
        "trained_tokens": sum(trained_tokens(r) for r in view),
        "picture_tokens": sum(int(r.fields.get("picture_tokens", 0)) for r in view),
    }
    digest = hashlib.sha256(repr((part.hash, indices, factors)).encode()).hexdigest()
    return Dataset(
        part.name, view, digest, counts, part.weight, problems=part.problems, remarks=part.remarks, ordered=part.ordered
    )


def without(dataset: Dataset, held: Dataset) -> Dataset:
    """A data set less the rows whose records are held out in another."""
    out = {record_key(row) for row in held.rows}
    kept = [i for i, row in enumerate(dataset.rows) if record_key(row) not in out]
    return dataset if len(kept) == len(dataset.rows) else subset(dataset, kept)


def records_of(dataset: Dataset, sources: Sequence[SourceLike], base: Path | str) -> list[Record]:
    """The records that a data set's rows were made from, in the rows' order."""
    found = {(r.source, r.id): r for s in sources for r in read_all(s, base).records}
    keys = dict.fromkeys(map(record_key, dataset.rows))
    return [found[key] for key in keys if key in found]


def record_key(row: Row) -> Key:
    """Which record a row was made from: pieces of a long one are called "<id>#<k>"."""
    head, mark, tail = row.id.rpartition("#")
    return row.source, head if mark and tail.isdigit() else row.id


@dataclass
class Told:
    """What became of a record: what selectors scored it, the factor on its loss weights, and which of them left it
    out, with the reason.
    """

    scores: dict[str, float] = field(default_factory=dict)
    weight: float = 1.0
    by: str | None = None
    reason: str = ""


@dataclass
class Selection:
    """A stage's selectors, and what became of its records so far.

    `waiting`: those that are applied when the stage begins, to the rows `pool`. `records` and `target` read what they
    are offered; `target_rows` are the target's, None where there is none.
    """

    stage: str
    seed: int
    uses: Sequence[MethodUse]
    pool: Dataset
    records: Callable[[], list[Record]]
    target: Callable[[], list[Record]]
    target_rows: Dataset | None
    waiting: list[MethodUse] = field(default_factory=list)
    told: dict[Key, Told] = field(default_factory=dict)
    flops: float = 0.0
    """Operations of what was applied when the rows were read: a selector may hold a model of its own."""

    def speakers(self) -> list[str]:
        """The models that the waiting selectors read with."""
        return list(dict.fromkeys(n for use in self.waiting for n in method_of(use).speakers()))


def selection_of(
    uses: Sequence[MethodUse],
    dataset: Dataset,
    records: Callable[[Dataset], list[Record]],
    target: Callable[[], list[Record]],
    target_rows: Dataset | None,
    seed: int,
    stage: str,
    *,
    waits: bool = False,
    asks: bool = True,
) -> Selection:
    """Apply the selectors that read records alone, up to the first that reads with a model; none where all of them
    wait. `records` gives those of a data set's rows. Without `asks` those that hold a model of their own wait too.
    MethodError for a selector that cannot be applied, at once.
    """
    for use in uses:
        selector(use, use.place or f"stages.{stage}.data.select", aimed=target_rows is not None)
    late = [reads(use) or not asks and holds_model(use) for use in uses]
    first = 0 if waits else next((i for i, waiting in enumerate(late) if waiting), len(uses))
    told: dict[Key, Told] = {}
    with counting() as counted:
        pool = select(uses[:first], dataset, records(dataset), target(), seed, stage, told) if first else dataset
    left = list(uses[first:])
    return Selection(
        stage,
        seed,
        uses,
        pool,
        lambda: records(pool),
        target,
        target_rows,
        waiting=left,
        told=told,
        flops=counted.total,
    )


def select(
    uses: Sequence[MethodUse],
    dataset: Dataset,
    records: Sequence[Record],
    target: Sequence[Record],
    seed: int,
    stage: str,
    told: dict[Key, Told] | None = None,
) -> Dataset:
    """Apply selectors that read records alone. `told` is filled with what became of each record.

    MethodError for what is no selector, wants a target that is not there, or returns nonsense.
    """
    for kept in applied(uses, records, target, seed, stage, {}, told if told is not None else {}):
        dataset = rows_of(dataset, kept, orders(uses))
    return dataset


def rows_of(dataset: Dataset, kept: Sequence[tuple[Key, float]], ordered: bool = False) -> Dataset:
    """The rows of records in the order in which they are kept, each with a factor on its rows' loss weights.
    `ordered`: they are learnt in this order first.
    """
    by_record: dict[Key, list[int]] = {}
    for i, row in enumerate(dataset.rows):
        by_record.setdefault(record_key(row), []).append(i)
    chosen = [(i, factor) for key, factor in kept for i in by_record[key]]
    weighed = any(factor != 1.0 for _, factor in kept)
    found = subset(dataset, [i for i, _ in chosen], [f for _, f in chosen] if weighed else None)
    if not ordered:
        return found
    return replace(found, ordered=True, parts=tuple(replace(p, ordered=True) for p in found.parts))


def applied(
    uses: Sequence[MethodUse],
    records: Sequence[Record],
    target: Sequence[Record],
    seed: int,
    stage: str,
    readers: Mapping[str, Reader],
    told: dict[Key, Told],
) -> Iterator[list[tuple[Key, float]]]:
    """What each selector keeps of what the one before it left, in order: (record, factor on its loss weights)."""
    for place, use in enumerate(uses):
        where = use.place or f"stages.{stage}.data.select"
        method = selector(use, where, aimed=bool(target))
        rng = random.Random(f"{seed}/select/{stage}/{use.name}")
        asked = {n: readers[n] for n in method.speakers() if n in readers}
        given = call(method, "select", use.name, records=records, target=target, readers=asked, rng=rng)
        found = checked(given, len(records), use.name, where, records)
        assert found.weights is not None
        _note(
            told, records, found, use.name if use.name not in [u.name for u in uses[:place]] else f"{use.name}#{place}"
        )
        yield [((records[k].source, records[k].id), w) for k, w in zip(found.indices, found.weights, strict=True)]
        records = [records[k] for k in found.indices]


def _note(told: dict[Key, Told], records: Sequence[Record], found: Selected, name: str) -> None:
    assert found.weights is not None
    kept = dict(zip(found.indices, found.weights, strict=True))
    for k, record in enumerate(records):
        entry = told.setdefault((record.source, record.id), Told())
        entry.scores |= {f"{name}.{score}": float(values[k]) for score, values in found.scores.items()}
        entry.weight *= kept.get(k, 1.0)
        if k not in kept:
            entry.by = name
        entry.reason = found.reasons[k] if found.reasons is not None else ""


def method_of(use: MethodUse) -> Method:
    """The method that a recipe names, with its parameters."""
    return catalogue.build(use)


def reads(use: MethodUse) -> bool:
    """Whether a selector reads records with a model."""
    return reads_records(method_of(use))


def holds_model(use: MethodUse) -> bool:
    """Whether a selector reads records with a model of its own. ModelError or RecipeError where that cannot be had."""
    method = method_of(use)
    if method.own_model() is None:
        return False
    if isinstance(method, EachRow):
        method.judge()
    return True


def orders(uses: Sequence[MethodUse]) -> bool:
    """Whether one of the selectors says in which order records are learnt."""
    return any(type(method_of(use)).orders for use in uses)


def selector(use: MethodUse, where: str, *, aimed: bool) -> Method:
    """The selector of a use. `aimed`: there is a target. MethodError for what is none, or wants a target."""
    method = method_of(use)
    if "select" not in type(method).slots():
        raise MethodError(
            f"'{use.name}' selects no rows: it fills {', '.join(type(method).slots())}",
            where=where,
            remedy="write it under methods:",
        )
    if "target" in arguments(type(method), "select") and not aimed:
        raise MethodError(
            f"'{use.name}' selects by a target, and the recipe has none beside the rows themselves",
            where=where,
            remedy="write data.validation: a file of rows like those to be learnt",
        )
    return method


def check_selector(use: MethodUse, where: str, recipe: Recipe) -> None:
    """MethodError where a selector does not serve the task, or reads with a model that the recipe does not name."""
    method = method_of(use)
    check_serves(use.name, method, task_for(recipe), where)
    if not reads(use):
        return
    if not method.speakers():
        raise MethodError(
            f"'{use.name}' reads with a model and names none",
            where=where,
            remedy=f'define speakers(self): return ("{START}",)',
        )
    for name in method.speakers():
        if name != START and name not in recipe.models:
            raise MethodError(
                f"'{use.name}' reads with the model '{name}', and the recipe names none",
                where="models",
                remedy=f"write models: {{{name}: ./folder-or-hub-id}}",
            )


def checked(selection: Any, n: int, name: str, where: str, records: Sequence[Record] = ()) -> Selected:
    """What a selector gave of n records, with plain indices and a weight for each; errors name one of `records`."""
    try:
        if not isinstance(selection, Selected):
            several = isinstance(selection, tuple) and selection and not isinstance(selection[0], int)
            selection = Selected(*selection) if several else Selected(selection)
        indices = [operator.index(i) for i in selection.indices]
        weights = [1.0] * len(indices) if selection.weights is None else [float(f) for f in selection.weights]
        bad = next(
            (
                (what, k, v)
                for what, values in selection.scores.items()
                for k, v in enumerate(values)
                if not math.isfinite(v)
            ),
            None,
        )
        reasons = selection.reasons
        if reasons is not None and not all(isinstance(r, str) for r in reasons):
            raise TypeError("reasons that are no texts")
    except (TypeError, ValueError, AttributeError) as e:
        raise MethodError(
            f"'{name}' gave a selection that cannot be read: {e}", where=where, remedy=f"return {SLOTS['select'].gives}"
        ) from None
    if len(set(indices)) < len(indices) or any(not 0 <= i < n for i in indices):
        raise MethodError(f"'{name}' must return different indices of its {n} records", where=where)
    if len(weights) != len(indices) or any(not 0 < w < float("inf") for w in weights):
        raise MethodError(f"'{name}' must return one weight above 0 for each index", where=where)
    for what, values in [*selection.scores.items(), ("reasons", selection.reasons)]:
        if values is not None and len(values) != n:
            raise MethodError(f"'{name}' must return {what} of all its {n} records, got {len(values)}", where=where)
    if bad is not None:
        what, k, value = bad
        raise MethodError(
            f"'{name}' gives {value} as {what}, which is no finite number",
            where=records[k].where if k < len(records) else where,
            remedy="look at this row, or take it out",
        )
    if not indices:
        raise DataError(f"'{name}' leaves none of {n} records", where=where, remedy="let it keep more")
    return Selected(indices, weights, selection.scores, selection.reasons)
