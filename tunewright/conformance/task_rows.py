"""Checks of a task's rows and batches: encoding repeats, rows survive the cache, a batch is what its rows say."""

from __future__ import annotations

import copy
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunewright.conformance.case import Check, global_randomness_unchanged
from tunewright.conformance.task_case import TaskCase
from tunewright.contract.batch import Batch, Row
from tunewright.contract.records import Record, RowProblem
from tunewright.data.store import StoredRows, Writer
from tunewright.data.truncate import trained_tokens
from tunewright.tasks._masks import SEGMENTED


def plain(value: Any) -> Any:
    """A value that can be compared: arrays and tensors as lists."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def said(row: Row) -> list[Any]:
    """All that a row holds."""
    return [row.id, row.source, list(row.input_ids), [float(w) for w in row.weights], row.label, plain(row.fields)]


def encoding_repeats(case: TaskCase) -> None:
    """A record gives the same row each time, alone, among others and beside bad ones, and is left as it was."""
    before = copy.deepcopy([dict(r) for r in case.records])
    with global_randomness_unchanged():
        alone = [said(case.task.encode(r, case.reader, case.options)) for r in case.records]
        backwards = case.task.encode_many(case.records[::-1], case.reader, case.options)[::-1]
        bad = [r for r in map(case.bad_record, case.example.bad) if isinstance(r, Record)]
        mixed = case.task.encode_many([*bad, *case.records], case.reader, case.options)
    assert [said(r) for r in case.rows] == alone, "a record encoded twice gives two rows"
    for what, many in (("backwards", backwards), ("behind bad rows", mixed[len(bad) :])):
        failed = next((r for r in many if not isinstance(r, Row)), None)
        assert failed is None, f"encode_many {what} fails on a row that encode takes: {failed!r}"
        assert [said(r) for r in many if isinstance(r, Row)] == alone, f"encode_many {what} gives others than encode"
    assert [dict(r) for r in case.records] == before, "encoding changes the record"
    for row, record in zip(case.rows, case.records, strict=True):
        assert (row.id, row.source) == (record.id, record.source), "a row's id and source are its record's"


def bad_rows_are_named(case: TaskCase) -> None:
    """A row that cannot be used raises RowProblem with field, reason and remedy, and stands in its place among many."""
    for what, (_, field) in case.example.bad.items():
        record = case.bad_record(what)
        try:
            if isinstance(record, RowProblem):
                raise record
            case.task.encode(record, case.reader, case.options)
        except RowProblem as problem:
            assert problem.field == field, f"{what}: the problem names '{problem.field}', and '{field}' is wrong"
            assert problem.reason and problem.remedy, f"{what}: the problem says no reason or no remedy"
        except Exception as error:
            raise AssertionError(f"{what}: raises {type(error).__name__}, not RowProblem: {error}") from error
        else:
            raise AssertionError(f"{what}: is taken for a good row")
        if isinstance(record, RowProblem):
            continue
        made = case.task.encode_many([case.records[0], record, case.records[1]], case.reader, case.options)
        assert [isinstance(r, Row) for r in made] == [True, False, True], f"{what}: has no place of its own among many"


def rows_survive_the_cache(case: TaskCase) -> None:
    """Rows written and read as the cache does are the same, and give the same batch."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "rows"
        with Writer(folder) as writer:
            writer.extend(case.rows)
            writer.finish({})
        read = [row.replace(source=own.source) for row, own in zip(StoredRows(folder, ""), case.rows, strict=True)]
        assert [said(r) for r in read] == [said(r) for r in case.rows], "fields hold what JSON and numpy do not"
        first, again = case.task.collate(case.rows), case.task.collate(read)
    assert plain(first.inputs) == plain(again.inputs), "rows from the cache give other inputs"
    assert plain(first.labels) == plain(again.labels), "rows from the cache give other labels"


def batches_have_the_shapes_promised(case: TaskCase) -> None:
    """labels, weights, rows [S]; ids, sources and epochs a row; positions in the flattened inputs; tokens counted."""
    for rows in (case.rows, case.rows[:1]):
        batch = case.task.collate(rows)
        targets = len(batch.labels)
        assert batch.labels.dim() == 1 and targets, "labels are one vector, with one target or more"
        assert not batch.labels.is_floating_point(), "labels are whole numbers"
        assert batch.weights.shape == batch.rows.shape == (targets,), "weights and rows are as many as labels"
        assert batch.weights.dtype == torch.float32 and bool((batch.weights >= 0).all()), "weights are fp32, 0 or more"
        assert int(batch.rows.min()) >= 0 and int(batch.rows.max()) < len(rows), "a target belongs to no row"
        assert batch.row_ids == [r.id for r in rows] and batch.sources == [r.source for r in rows], "ids, sources"
        assert batch.epochs == [0] * len(rows), "without epochs, every row's is 0"
        assert all(isinstance(t, torch.Tensor) for t in batch.inputs.values()), "inputs are tensors"
        first = next(iter(batch.inputs.values()))
        assert len(first) >= len(rows) or batch.cu_seqlens is not None, "inputs have an entry a row"
        if batch.positions is not None:
            assert batch.positions.shape == (targets,), "positions are as many as labels"
            assert int(batch.positions.min()) >= 0, "a position is before the batch"
        assert batch.tokens >= len(rows), "a row counts as a token at least"
    assert case.task.collate(case.rows, epochs=[3] * len(case.rows)).epochs == [3] * len(case.rows), "epochs are lost"


def draws(case: TaskCase) -> bool:
    """Whether what is a target is drawn anew in each epoch."""
    first, later = (case.task.collate(case.rows, epochs=[e] * len(case.rows)) for e in (0, 1))
    return plain(first.inputs) != plain(later.inputs) or plain(first.labels) != plain(later.labels)


def what_counts_is_what_rows_say(case: TaskCase) -> None:
    """The targets of each row in a batch are as many, and weigh as much, as the row says (drawn ones: at most)."""
    batch = case.task.collate(case.rows)
    drawn = draws(case)
    for k, row in enumerate(case.rows):
        here = batch.weights[batch.rows == k]
        every = row.one_target or "targets" in row.fields
        weighs = sum(row.weights if every else row.weights[1:])
        counts, count = int((here > 0).sum()), trained_tokens(row)
        weighs *= count if row.fields.get("kind") == SEGMENTED else 1  # one weight for all pixels
        assert count > 0, f"{row.id}: nothing of it counts"
        assert counts == count or drawn and 0 < counts <= count, f"{row.id}: {counts} targets, and the row says {count}"
        if not drawn:
            assert math.isclose(float(here.sum()), weighs, rel_tol=1e-5), (
                f"{row.id}: its targets weigh {float(here.sum()):g}, and the row says {weighs:g}"
            )


def draws_are_keyed(case: TaskCase) -> None:
    """What a row gives hangs on seed, epoch and row alone: not on its neighbours, nor on global generators."""
    some = case.rows[:4]
    with global_randomness_unchanged():
        batch = case.task.collate(some, epochs=[2] * 4, seed=5)
        other = case.task.collate([case.rows[4], *some[::-1]], epochs=[2] * 5, seed=5)
    for k in range(4):
        assert _of_row(batch, k) == _of_row(other, 4 - k), f"{some[k].id}: other targets beside other rows"
    if draws(case):
        reseeded = case.task.collate(some, epochs=[2] * 4, seed=6)
        assert any(_of_row(batch, k) != _of_row(reseeded, k) for k in range(4)), "the seed changes nothing"


def _of_row(batch: Batch, k: int) -> list[Any]:
    here = batch.rows == k
    said = [batch.labels[here].tolist(), batch.weights[here].tolist()]
    if (pixels := batch.inputs.get("pixel_values")) is None or len(pixels) % len(batch.row_ids):
        return said
    if (noise := batch.inputs.get("noise")) is not None:
        said += [noise[k].tolist(), batch.inputs["timesteps"][k].tolist()]
    each = len(pixels) // len(batch.row_ids)  # views of a picture are drawn, and not what is a target
    return [*said, pixels[k * each : (k + 1) * each].tolist()]


def _always(case: TaskCase) -> bool:
    return True


def _has_bad(case: TaskCase) -> bool:
    return bool(case.example.bad)


CHECKS = [
    Check("encoding repeats", _always, encoding_repeats),
    Check("bad rows are named", _has_bad, bad_rows_are_named),
    Check("rows survive the cache", _always, rows_survive_the_cache),
    Check("batches have the shapes promised", _always, batches_have_the_shapes_promised),
    Check("what counts is what rows say", _always, what_counts_is_what_rows_say),
    Check("draws are keyed", _always, draws_are_keyed),
]
