"""Which training rows are used: the selectors of `data.select`, in order, each seeing what the one before left.

A selector's `select(records, target, rng)` gets the records whose rows would be trained on and returns the indices of
those to keep, in the order to keep them in, or (indices, weights): each weight above 0 multiplies the loss weights of
that record's rows. `target` holds records of what is to be learnt, never those that the run is measured on.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunewright import catalogue
from tunewright.contract.batch import Row
from tunewright.contract.method import Method, arguments, call
from tunewright.contract.records import Record
from tunewright.data.dataset import Dataset
from tunewright.data.read import SourceLike, read_all
from tunewright.data.truncate import trained_tokens
from tunewright.errors import DataError, MethodError
from tunewright.recipe import MethodUse


class _View(Sequence[Row]):
    """Some rows of a sequence, in an order of their own, with factors on their loss weights."""

    def __init__(self, rows: Sequence[Row], indices: Sequence[int], factors: Sequence[float] | None):
        self.rows, self.indices, self.factors = rows, indices, factors

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        row = self.rows[self.indices[i]]
        factor = 1.0 if self.factors is None else self.factors[i]
        return row if factor == 1.0 else replace(row, weights=[w * factor for w in row.weights])


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
    }
    digest = hashlib.sha256(repr((part.hash, indices, factors)).encode()).hexdigest()
    return Dataset(part.name, view, digest, counts, part.weight, problems=part.problems)


def without(dataset: Dataset, held: Dataset) -> Dataset:
    """A data set less the rows whose records are held out in another."""
    out = {_key(row) for row in held.rows}
    kept = [i for i, row in enumerate(dataset.rows) if _key(row) not in out]
    return dataset if len(kept) == len(dataset.rows) else subset(dataset, kept)


def records_of(dataset: Dataset | None, sources: Sequence[SourceLike], base: Path | str) -> list[Record]:
    """The records that a data set's rows were made from, in order; all of `sources` where there is no data set."""
    records = [r for s in sources for r in read_all(s, base).records]
    if dataset is None:
        return records
    keys = {_key(row) for row in dataset.rows}
    return [r for r in records if (r.source, r.id) in keys]


def _key(row: Row) -> tuple[str, str]:
    """Which record a row was made from: pieces of a long one are called "<id>#<k>"."""
    head, mark, tail = row.id.rpartition("#")
    return row.source, head if mark and tail.isdigit() else row.id


def select(
    uses: Sequence[MethodUse],
    dataset: Dataset,
    records: Sequence[Record],
    target: Sequence[Record],
    seed: int,
    stage: str,
) -> Dataset:
    """Apply the selectors.

    MethodError for what is no selector, wants a target that is not there, or returns nonsense.
    """
    for use in uses:
        where = use.place or f"stages.{stage}.data.select"
        method = selector(use, where, aimed=bool(target))
        rng = random.Random(f"{seed}/select/{stage}/{use.name}")
        indices, factors = _checked(
            call(method, "select", records=records, target=target, rng=rng), len(records), use.name, where
        )
        by_record: dict[tuple[str, str], list[int]] = {}
        for i, row in enumerate(dataset.rows):
            by_record.setdefault(_key(row), []).append(i)
        chosen = [
            (i, f) for k, f in zip(indices, factors, strict=True) for i in by_record[(records[k].source, records[k].id)]
        ]
        dataset = subset(
            dataset, [i for i, _ in chosen], [f for _, f in chosen] if any(f != 1.0 for f in factors) else None
        )
        records = [records[k] for k in indices]
    return dataset


def selector(use: MethodUse, where: str, *, aimed: bool) -> Method:
    """The selector of a use. `aimed`: there is a target. MethodError for what is none, or wants a target."""
    method = catalogue.build(use)
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


def _checked(selection: Any, n: int, name: str, where: str) -> tuple[list[int], list[float]]:
    indices, factors = selection if isinstance(selection, tuple) else (selection, None)
    indices = [int(i) for i in indices]
    weights = [1.0] * len(indices) if factors is None else [float(f) for f in factors]
    if len(set(indices)) < len(indices) or any(not 0 <= i < n for i in indices):
        raise MethodError(f"'{name}' must return different indices of its {n} records", where=where)
    if len(weights) != len(indices) or any(not 0 < w < float("inf") for w in weights):
        raise MethodError(f"'{name}' must return one weight above 0 for each index", where=where)
    if not indices:
        raise DataError(f"'{name}' leaves none of {n} records", where=where, remedy="let it keep more")
    return indices, weights
