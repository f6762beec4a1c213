"""What `tunewright methods` prints."""

from __future__ import annotations

import ast
import textwrap
from typing import Any

from tunewright import catalogue
from tunewright.contract.category import CATEGORIES
from tunewright.errors import RecipeError, did_you_mean
from tunewright.machine import installed


def one(name: str) -> dict[str, Any]:
    """One entry described in full; imports its module. RecipeError with the nearest names when there is none."""
    return catalogue.describe(name)


def of_category(category: str | None) -> list[catalogue.Entry]:
    """Entries of a category, by name; None: all entries. RecipeError for what is none."""
    if category is not None and category not in CATEGORIES:
        raise RecipeError(
            f"there is no category '{category}'", where="--category", remedy=did_you_mean(category, CATEGORIES)
        )
    return [e for e in catalogue.entries().values() if category is None or e.category() == category]


def all_described(category: str | None = None) -> list[dict[str, Any]]:
    """Every entry (of a category) described in full; imports their modules."""
    return [catalogue.describe(e.name) for e in of_category(category)]


def table(columns: int = 0, category: str | None = None) -> str:
    """Names and first lines by room, read without importing anything; those that have a category say it. `columns` of a
    terminal, within which lines are broken under their own beginning; 0: a line each. `category`: those of one alone,
    under what it means.
    """
    entries = of_category(category)
    width = max((len(e.name) for e in entries), default=0)

    def line(name: str, said: str) -> str:
        head = f"  {name:<{width}}  "
        if columns - len(head) < 30:  # no room beside the names
            return f"{head}{said}".rstrip()
        within = textwrap.TextWrapper(
            columns, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
        )
        return within.fill(said) or head.rstrip()

    parts = [] if category is None else [f"{category}: {CATEGORIES[category]}", ""]
    for room in sorted({e.room for e in entries}):
        parts.append(room)
        parts += [line(e.name, _said(e, category is None)) for e in entries if e.room == room]
    for group in installed.GROUPS if category is None else ():
        points = installed.points(group).values()
        parts += [f"{group.rpartition('.')[2]} of other packages"] if points else []
        parts += [line(p.name, f"{p.comes_from}: {_summary(p)}".rstrip(": ")) for p in points]
    return "\n".join([*parts, "", "`tunewright methods NAME` describes one: slots, parameters, needs, papers."])


def _said(entry: catalogue.Entry, with_category: bool) -> str:
    """Its summary, and its category before it."""
    kind = entry.category() if with_category else None
    return f"[{kind}] {entry.summary()}" if kind else entry.summary()


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
    """What a shape or a metric says of itself, else the first paragraph of its module's docstring, as one line; read
    without importing it.
    """
    file = point.file
    if file is None:
        return f"{point.module} is not there"
    try:
        module = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        return f"cannot be read: {error}"
    text = _own_words(module, point.attribute) if point.kind in ("shape", "metric") else ""
    text = text or ast.get_docstring(module) or ""
    return " ".join(text.split("\n\n", 1)[0].split())


def _own_words(module: ast.Module, name: str) -> str:
    """The docstring under `name = Shape(...)`, else of the first function of the module that it is made of."""
    functions = {f.name: ast.get_docstring(f) or "" for f in module.body if isinstance(f, ast.FunctionDef)}
    for node, after in zip(module.body, [*module.body[1:], None], strict=True):
        if not (isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)):
            continue
        under = after.value if isinstance(after, ast.Expr) else None
        if isinstance(under, ast.Constant) and isinstance(under.value, str):
            return under.value.strip()
        used = [n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)]
        return next((functions[n] for n in used if functions.get(n)), "")
    return ""


def page(described: dict[str, Any]) -> str:
    """One entry as text. `reconstructed`, where a caller added it: from what, by paper."""
    lines = [f"{described['name']}  ({described['room']})", described["summary"], ""]
    if kind := described.get("category"):
        lines.append(f"{'category:':<12}{kind}: {CATEGORIES[kind]}")
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
