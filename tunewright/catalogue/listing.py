"""What `tunewright methods` prints."""

from __future__ import annotations

import ast
from typing import Any

from tunewright import catalogue
from tunewright.machine import installed


def one(name: str) -> dict[str, Any]:
    """One entry described in full; imports its module. RecipeError with the nearest names when there is none."""
    return catalogue.describe(name)


def all_described() -> list[dict[str, Any]]:
    """Every entry described in full; imports every module."""
    return [catalogue.describe(name) for name in catalogue.entries()]


def table() -> str:
    """Names and first lines by room, read without importing anything."""
    entries = catalogue.entries().values()
    width = max((len(e.name) for e in entries), default=0)
    parts = []
    for room in sorted({e.room for e in entries}):
        parts.append(room)
        parts += [f"  {e.name:<{width}}  {e.summary()}".rstrip() for e in entries if e.room == room]
    for group in installed.GROUPS:
        points = installed.points(group).values()
        parts += [f"{group.rpartition('.')[2]} of other packages"] if points else []
        parts += [f"  {p.name:<{width}}  {p.comes_from}: {_summary(p)}".rstrip(": ") for p in points]
    return "\n".join([*parts, "", "`tunewright methods NAME` describes one: slots, parameters, needs, papers."])


def added(name: str) -> dict[str, Any] | None:
    """What other packages add by a name beside methods, by kind; None where there is nothing. Imports nothing."""
    points = [p for group in installed.GROUPS if (p := installed.points(group).get(name)) is not None]
    if not points:
        return None
    said = [{"kind": p.kind, "from": p.comes_from, "module": p.module, "summary": _summary(p)} for p in points]
    return {"name": name, "added": said}


def added_page(described: dict[str, Any]) -> str:
    """`added` as text."""
    lines = [f"{described['name']}"]
    for one in described["added"]:
        lines += [f"  {one['kind']} of {one['from']} ({one['module']})", f"      {one['summary']}".rstrip()]
    return "\n".join(lines)


def _summary(point: installed.Point) -> str:
    """The first paragraph of the module's docstring as one line, read without importing it."""
    file = point.file
    if file is None:
        return f"{point.module} is not there"
    try:
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    except (SyntaxError, ValueError) as error:
        return f"cannot be read: {error}"
    return " ".join(text.split("\n\n", 1)[0].split())


def page(described: dict[str, Any]) -> str:
    """One entry as text. `reconstructed`, where a caller added it: from what, by paper."""
    lines = [f"{described['name']}  ({described['room']})", described["summary"], ""]
    for title in ("slots", "needs", "papers"):
        lines.append(f"{title + ':':<12}{', '.join(described[title]) or 'none'}")
    for slug, how in described.get("reconstructed", {}).items():
        lines += ["", f"reconstructed, {slug}: {how}"]
    lines += ["", "parameters:" if described["parameters"] else "parameters: none"]
    for name, field in described["parameters"].items():
        default = "required" if field["required"] else f"default {field['default']}"
        lines.append(f"  {name}: {field['type']}, {', '.join(x for x in (default, field['range']) if x)}")
        lines.append("      " + "; ".join([field["description"], *field.get("notes", [])]))
    return "\n".join(lines)
