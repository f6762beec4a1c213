"""The slot `example`: what the methods of a stage make of a record before it is encoded, one after the other."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence

from tunewright.contract.method import Method, call, row_rng
from tunewright.contract.records import Record
from tunewright.errors import MethodError


class RecordChange:
    """Applied to each record, in the recipe's order of methods. Changes of equal `key` give equal records.

    Draws are keyed by (seed, method, record id): they do not depend on which records come before.
    """

    def __init__(self, named: Sequence[tuple[str, Method]], seed: int):
        self.named, self.seed = list(named), seed
        parts = [(name, _source(type(m)), m.model_dump_json()) for name, m in named]
        self.key = hashlib.sha256(json.dumps([parts, seed]).encode()).hexdigest()

    def __call__(self, record: Record) -> Record:
        """The changed record; the one given is untouched. MethodError where a method gives something else."""
        for name, method in self.named:
            changed = call(method, "example", record=record, rng=row_rng(self.seed, name, 0, record.id))
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
    """What a stage's methods on `example` do; None where none of them fills it."""
    filling = [(name, m) for name, m in named if "example" in type(m).slots()]
    return RecordChange(filling, seed) if filling else None
