"""Records as encoded rows, a window at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tunewright.contract.batch import Row
from tunewright.contract.record_change import RecordChange
from tunewright.contract.records import Problem, Record, RowProblem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.data import store
from tunewright.data.episode_windows import of_episodes
from tunewright.data.facts import LONG, UNTRAINED, Looking
from tunewright.data.read import TABLE, Read
from tunewright.data.series_windows import of_series
from tunewright.data.shapes import RECORDED, SHAPELESS, named_for
from tunewright.data.truncate import fit_length, trained_tokens
from tunewright.errors import DataError, MethodError, TunewrightError
from tunewright.machine.collector import patient_collector

WINDOW, CHARACTERS = 512, 1 << 18
"""Records, and about how many of their characters, that are encoded together; no more of a source is in memory."""
RECORDINGS = 16
"""Recordings that are, whose samples take megabytes."""
COUNTS = (
    *("read", "problems", "too_long", "pieces", "left_out", "zero_trained"),
    *("rows", "tokens", "trained_tokens", "picture_tokens"),
)


@dataclass
class Encoded:
    """What became of a source's rows. `rows` is where they went: a list, or a store's writer."""

    rows: Any
    problems: list[Problem]
    counts: dict[str, int]
    places: tuple[str, ...] = ()
    shapes: dict[str, int] = field(default_factory=dict)


def _of_task(problem: Problem, task: Task) -> Problem:
    """What is wrong with a row that was read without knowing the task."""
    shapeless = problem.field == SHAPELESS and "no known shape" in problem.reason
    if not shapeless or not (remedy := named_for(task.name)):
        return problem
    return replace(problem, remedy=remedy + (TABLE if problem.remedy.endswith(TABLE) else ""))


def windows(records: Iterable[Record], most: int | None = None) -> Iterator[list[Record]]:
    """Records in lists of at most `most` (WINDOW), each of which ends where its characters are CHARACTERS or more."""
    window, held = list[Record](), 0
    for record in records:
        window.append(record)
        held += characters(record)
        if len(window) == (most or WINDOW) or held >= CHARACTERS:
            yield window
            window, held = [], 0
    if window:
        yield window


def characters(value: Any) -> int:
    """About what a value takes in memory: characters of text, bytes of anything else that is large."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(characters, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(characters, value))
    return int(getattr(value, "nbytes", 0))


def encode_all(
    read: Read,
    task: Task,
    tokenizer: Any,
    options: EncodeOptions,
    change: RecordChange | None = None,
    into: store.Writer | None = None,
) -> Encoded:
    """Encode the records of a source and apply the truncation policy; every bad row becomes a problem.

    With `into`, rows and facts are written there as they come, and only a window of them is held.
    """
    out = Encoded([] if into is None else into, read.problems, {})
    limit = min(options.max_length, getattr(tokenizer, "model_max_length", None) or options.max_length)
    looking, counts, bad = Looking(task, tokenizer), Counter[str](), list[Problem]()
    with patient_collector():
        records = read.records
        if options.series is not None:
            records = of_series(read, options.series)
        elif options.trajectories is not None:
            records = of_episodes(read, options.trajectories)
        for window in windows(records, RECORDINGS if task.reads_audio else None):
            _refuse_recordings(window, task)
            counts["read"] += len(window)
            seen = list(_made(window, task, tokenizer, options, limit, change, bad))
            facts = looking.facts(seen)
            counts["cut"] += sum("cut" in made.fields for _, made, _ in seen)
            rows = _kept(seen, facts["flags"].tolist(), counts)
            out.rows.extend(rows)
            if into is not None:
                into.note(facts)
    if cut := counts.pop("cut", 0):
        many = "1 row is" if cut == 1 else f"{cut:,} rows are"
        what = "their longest texts are cut, and where that is not enough the last cells are left out"
        read.remarks.append(f"{many} longer than {limit} tokens: {what}")
    counts["read"] += len(read.problems)
    out.problems = [*(_of_task(p, task) for p in read.problems), *bad]
    counts["problems"] = len(out.problems)
    out.counts = {k: counts[k] for k in COUNTS}
    out.places, out.shapes = tuple(looking.places), dict(looking.shapes)
    return out


def _refuse_recordings(window: Sequence[Record], task: Task) -> None:
    """DataError where a record is a recording and the task does not read any."""
    first = None if task.reads_audio else next((r for r in window if r.shape in RECORDED), None)
    if first is not None:
        raise DataError(
            f"the row is a recording (a column audio), which the task {task.name} does not read",
            where=first.where,
            remedy="write task: audio-classification or task: automatic-speech-recognition; to read other columns "
            "alone, name their shape: format: text",
        )


def _made(
    window: Sequence[Record],
    task: Task,
    tokenizer: Any,
    options: EncodeOptions,
    limit: int,
    change: RecordChange | None,
    bad: list[Problem],
) -> Iterator[tuple[Record, Row, list[Row]]]:
    """Each record of a window with its row and what is kept of it; those that cannot be used go to `bad`."""
    given = [record if change is None else _changed(change, record) for record in window]
    rows_of = iter(task.encode_many([g for g in given if isinstance(g, Record)], tokenizer, options))
    for record, changed in zip(window, given, strict=True):
        made = next(rows_of) if isinstance(changed, Record) else changed
        try:
            if isinstance(made, Exception):
                raise made
            if task.classifies and made.label is None:
                raise _no_class(task)
            kept = fit_length(made, limit, options.truncation)
        except RowProblem as problem:
            bad.append(problem.at(record.where))
        except TunewrightError:
            raise
        except Exception as error:  # of a tokenizer, a template or a task written elsewhere
            said = (str(error).strip() or "no reason given").splitlines()[0][:300]
            reason = f"encoding the row failed: {type(error).__name__}: {said}"
            remedy = "take the row out; if nothing is wrong with it, report this as a defect"
            bad.append(Problem(record.where, "row", reason, remedy))
        else:
            yield record, made, kept


def _no_class(task: Task) -> TunewrightError:
    """What is wrong with a task of classes whose rows have none."""
    return MethodError(
        f"the task {task.name} is of one class a row, and its rows have no label",
        where="Task.encode",
        remedy="return Row(..., label=label_id(...)), or write multi_label: ClassVar[bool] = True in the task, "
        'and fields={"target": ...} in its rows',
    )


def _kept(seen: Sequence[tuple[Record, Row, list[Row]]], flags: Sequence[int], counts: Counter[str]) -> list[Row]:
    """The rows that a run takes, all of them counted."""
    rows = list[Row]()
    for (_, _, kept), flag in zip(seen, flags, strict=True):
        if flag & LONG:
            counts["too_long"] += 1
            counts["pieces"] += len(kept)
            counts["left_out"] += not kept
        if flag & UNTRAINED:
            counts["zero_trained"] += 1
            continue
        rows += kept
    counts["rows"] += len(rows)
    counts["tokens"] += sum([r.size for r in rows])
    counts["trained_tokens"] += sum(map(trained_tokens, rows))
    counts["picture_tokens"] += sum(int(r.fields.get("picture_tokens", 0)) for r in rows)
    return rows


def _changed(change: RecordChange, record: Record) -> Record | Exception:
    """What a stage's methods make of a record, or what they raised of it alone."""
    try:
        return change(record)
    except TunewrightError:
        raise
    except Exception as error:
        return error
