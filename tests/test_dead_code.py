"""Nothing in the package is there for the tests alone: what vulture finds without them is answered in a list."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import vulture

import tunewright
from tests.vulture_whitelist import ANSWERED
from tunewright import catalogue
from tunewright.contract.slot import SLOTS

PACKAGE = Path(tunewright.__file__).parent
REGISTERED = ["@app.*", "@field_validator*", "@model_validator*"]
"""Decorators that register a function where it is called from."""
NAMES = {name for names in ANSWERED.values() for name in names}


@cache
def named_by_recipes() -> set[Path]:
    """Files that are found by listing folders: methods, needs, probes, selectors, tasks."""
    files = {Path(e.file) for e in catalogue.entries().values() if e.file is not None}
    return files | {PACKAGE / "tasks" / f"{name.replace('-', '_')}.py" for name in catalogue.tasks()}


@cache
def fields_of(file: Path) -> set[tuple[str, int]]:
    """(name, line) of the pydantic fields of a file: what a class declares as `name: type = Field(...)`."""
    return {
        (node.target.id, node.lineno)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "Field"
    }


def reached(item: Any) -> bool:
    """Whether something is reached in a way that its own place shows."""
    file = Path(item.filename).resolve()
    if item.typ == "class":
        return file in named_by_recipes() or file.parent == PACKAGE / "conformance" / "examples"
    if item.typ in ("method", "function") and item.name in SLOTS:
        return True
    return item.typ == "variable" and (item.name, item.first_lineno) in fields_of(file)


@pytest.fixture(scope="module")
def unused() -> list[Any]:
    search = vulture.Vulture(ignore_decorators=REGISTERED)
    search.scavenge([str(PACKAGE)])
    return [item for item in search.get_unused_code(min_confidence=60) if not reached(item)]


def test_nothing_is_unused_or_used_by_tests_alone(unused: list[Any]) -> None:
    left = [f"{i.filename}:{i.first_lineno}: {i.typ} {i.name}" for i in unused if i.name not in NAMES]
    assert not left, "remove it, or say in tests/vulture_whitelist.py why it stays:\n" + "\n".join(left)


def test_every_answer_is_still_needed(unused: list[Any]) -> None:
    used = NAMES - {i.name for i in unused}
    assert not used, f"used by now, or gone: take it out of tests/vulture_whitelist.py: {sorted(used)}"
