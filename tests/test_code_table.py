"""The methods are short, and none is built on another's file."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tunewright import catalogue
from tunewright.catalogue import code_table
from tunewright.commands import cli

OURS = [e for e in catalogue.entries().values() if e.room != catalogue.THIRD_PARTY]

SAMPLE = '''"""Module
docstring."""

from __future__ import annotations  # counted

# a comment


class A:
    """Docstring."""

    x = """a text
    of two lines"""

    def f(self) -> int:
        """One
        more."""
        return (
            1
        )
'''


def imported_methods(source: str, own: str) -> list[str]:
    """Modules of other methods that a method's file imports. Private modules of a family (_name) and needs are none."""
    modules = {e.module for e in catalogue.entries().values()} - {own}
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.update({node.module, *(f"{node.module}.{a.name}" for a in node.names)})
    return sorted(found & modules)


def test_blank_lines_comments_and_docstrings_are_no_code() -> None:
    assert code_table.code_lines(SAMPLE) == 8


def test_the_median_file_has_at_most_sixty_lines() -> None:
    rows = code_table.measured()
    assert len(rows) >= len(OURS)
    assert code_table.median([r for r in rows if r["room"].startswith("methods/")]) <= 60
    assert code_table.median(rows) <= 60


@pytest.mark.parametrize("entry", OURS, ids=lambda e: e.name)
def test_no_method_imports_another(entry: catalogue.Entry) -> None:
    assert entry.file is not None
    source = Path(entry.file).read_text(encoding="utf-8")
    assert not imported_methods(source, entry.module), (
        "share a piece (tunewright/pieces) or a private module (_name.py) of the room instead"
    )


def test_an_import_of_another_method_is_seen() -> None:
    for line in (
        "from tunewright.methods.adapters.lora import LoRA",
        "from tunewright.methods.adapters import lora",
        "import tunewright.methods.adapters.lora",
    ):
        assert imported_methods(line, "tunewright.methods.adapters.corda") == ["tunewright.methods.adapters.lora"]
    for line in (
        "from tunewright.methods.preferences._pairs import Preference",
        "from tunewright.pieces.target_modules import TARGET_MODULES",
    ):
        assert not imported_methods(line, "tunewright.methods.adapters.corda")


def test_the_command_prints_every_file_and_the_median() -> None:
    text = CliRunner().invoke(cli.app, ["methods", "--table"]).stdout
    rows = json.loads(CliRunner().invoke(cli.app, ["methods", "--table", "--json"]).stdout)
    assert {r["name"] for r in rows} >= {e.name for e in OURS}
    for row in rows:
        (line,) = [x for x in text.splitlines() if x.split()[:1] == [row["name"]] and row["room"] in x]
        assert str(row["lines"]) in line and all(s in line for s in [*row["slots"], *row["needs"]])
    assert f"median {code_table.median(rows):g} lines of code" in text
