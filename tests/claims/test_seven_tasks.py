"""The rows of the claims about seven tasks in sequence: equally many of each, none in two parts, every answer right."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tunewright.claims.lab import procedural
from tunewright.claims.papers import _seven_tasks as seven


def test_every_task_has_as_many_rows_and_no_prompt_is_in_two_parts() -> None:
    parts = {
        name: [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
        for name, file in seven.files().items()
    }
    assert Counter(r["kind"] for r in parts["eval"]) == dict.fromkeys(procedural.LISTS, 28)
    assert Counter(r["kind"] for r in parts["validation"]) == dict.fromkeys(procedural.LISTS, 10)
    assert min(Counter(r["kind"] for r in parts["train"]).values()) >= 500 and len(procedural.LISTS) == 7
    rows = [r for found in parts.values() for r in found]
    assert len({r["prompt"] for r in rows}) == len(rows)
    assert all(r["completion"] == procedural.solve_list(r["prompt"]) for r in rows)
    assert [r["kind"] for r in parts["train"][:40]] != sorted(r["kind"] for r in parts["train"][:40])
