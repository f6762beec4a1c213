"""How large the methods are: lines of code, slots and needs of every file that a recipe may name, and the median."""

from __future__ import annotations

import ast
import io
import statistics
import tokenize
from pathlib import Path
from typing import Any

from tunewright import catalogue

_NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> int:
    """Lines that hold code: blank lines, comments, docstrings and the `category` that lists show are not counted."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NOT_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            text = node.body[0]
            lines.difference_update(range(text.lineno, (text.end_lineno or text.lineno) + 1))
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node).startswith("category: ClassVar"):
            lines.discard(node.lineno)
    return len(lines)


def measured() -> list[dict[str, Any]]:
    """{name, room, lines, slots, needs} of everything a recipe may name; imports every module."""
    rows = []
    for entry in catalogue.entries().values():
        if entry.file is not None:
            described = catalogue.describe(entry.name)
            lines = code_lines(Path(entry.file).read_text(encoding="utf-8"))
            rows.append(
                {
                    "name": entry.name,
                    "room": entry.room,
                    "lines": lines,
                    "slots": described["slots"],
                    "needs": described["needs"],
                }
            )
    return rows


def median(rows: list[dict[str, Any]]) -> float:
    """Median lines of code of a file."""
    return statistics.median(r["lines"] for r in rows)


def page(rows: list[dict[str, Any]]) -> str:
    """The table as text, longest file last, with the median under it."""
    widths = [max(len(str(r[k])) for r in rows) for k in ("name", "room", "lines")]
    slots = max(len(", ".join(r["slots"])) for r in rows)
    head = f"{'method':<{widths[0]}}  {'room':<{widths[1]}}  {'lines':>5}  {'slots':<{slots}}  needs"
    body = [
        (
            f"{r['name']:<{widths[0]}}  {r['room']:<{widths[1]}}  {r['lines']:>5}  {', '.join(r['slots']):<{slots}}  "
            f"{', '.join(r['needs'])}"
        ).rstrip()
        for r in sorted(rows, key=lambda r: (r["lines"], r["name"]))
    ]
    return "\n".join(
        [
            head,
            *body,
            "",
            f"{len(rows)} files; median {median(rows):g} lines of code (no blank lines, comments or docstrings)",
        ]
    )
