"""What becomes of a record before it is encoded: the slot `example`, and stand-ins for what `synthesize` will make."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tunewright.contract.method import Method, call, row_rng
from tunewright.contract.records import Record
from tunewright.errors import MethodError

Step = Callable[[Record], Record | None]


@dataclass(frozen=True)
class RecordChange:
    """Steps that each record goes through, by the name of the method that does them. Changes of equal `key` give equal
    records.
    """

    steps: tuple[tuple[str, Step], ...]
    key: str

    def __call__(self, record: Record) -> Record:
        """The changed record; the one given is untouched. MethodError where a method gives something else."""
        for name, step in self.steps:
            changed = step(record)
            if changed is None:
                continue
            if not isinstance(changed, Record) or changed.id != record.id:
                raise MethodError(
                    f"'{name}' gave {type(changed).__name__} for a record",
                    where=record.where,
                    remedy="return record.replace(column=...), or None to leave it as it is",
                )
            record = changed
        return record


def _source(kind: type[Method]) -> str:
    return inspect.getsource(inspect.getmodule(kind) or kind)


def record_change(named: Sequence[tuple[str, Method]], seed: int) -> RecordChange | None:
    """What a stage's methods on `example` do; None where none of them fills it.

    Draws are keyed by (seed, method, record id): they do not depend on which records come before.
    """

    def step(name: str, method: Method) -> Step:
        return lambda record: call(method, "example", name, record=record, rng=row_rng(seed, name, 0, record.id))

    return _change([(n, m) for n, m in named if "example" in type(m).slots()], step, seed)


def stand_ins(named: Sequence[tuple[str, Method]], labels: Sequence[str] | None) -> RecordChange | None:
    """Records as rows of what methods on `synthesize` will make of them; None where they are rows as they stand."""

    def step(name: str, method: Method) -> Step:
        return lambda record: method.stand_in(record, labels)

    filling = [(n, m) for n, m in named if type(m).stand_in is not Method.stand_in]
    return _change(filling, step, list(labels) if labels is not None else None)


def chained(*changes: RecordChange | None) -> RecordChange | None:
    """One change after another; None where there is none."""
    there = [c for c in changes if c is not None]
    if len(there) < 2:
        return there[0] if there else None
    joined = hashlib.sha256("".join(c.key for c in there).encode()).hexdigest()
    return RecordChange(tuple(step for c in there for step in c.steps), joined)


def _change(
    named: Sequence[tuple[str, Method]], step: Callable[[str, Method], Step], beside: object
) -> RecordChange | None:
    if not named:
        return None
    parts = [(name, _source(type(m)), m.model_dump_json()) for name, m in named]
    key = hashlib.sha256(json.dumps([parts, beside]).encode()).hexdigest()
    return RecordChange(tuple((name, step(name, m)) for name, m in named), key)
