"""What `tunewright methods` prints."""

from __future__ import annotations

from typing import Any

from tunewright import catalogue


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
    return "\n".join([*parts, "", "`tunewright methods NAME` describes one: slots, parameters, needs, papers."])


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
