"""What Python files do, as a hash: not how they are laid out, worded or where they lie.

`plain` hashes a file's syntax tree without what decides no number: comments and layout, docstrings, import lines,
`if TYPE_CHECKING`, annotations of functions and of what is local to them, the text of errors that are raised,
`description` and `examples` of fields, and the `category` that a method is shown under. `closure` finds the package's
files that a file uses, by its imports.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tunewright.files.cache import cache_folder, write_json

PACKAGE = Path(__file__).parents[1]
_IMPORTS = (ast.Import, ast.ImportFrom)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_WORDS = frozenset({"description", "examples"})
_SHOWN = frozenset({"category"})
_SKIPPED = frozenset({"ctx", "kind", "type_comment", "type_params", "returns"})


def plain(file: Path) -> str:
    """64 hexadecimal digits of what a file does; equal for files that differ in layout and wording alone."""
    return _read(file)[0]


def plain_of(files: Iterable[Path]) -> str:
    """One short hash of what some files do, whatever they are called and wherever they lie."""
    return hashlib.sha256(repr(sorted(map(plain, set(files)))).encode()).hexdigest()[:16]


def plain_text(source: str) -> str:
    """`plain` of a text. SyntaxError where it is no Python."""
    return hashlib.sha256("".join(_walk(ast.parse(source), False)).encode()).hexdigest()


def closure(files: Iterable[Path], within: Callable[[str], bool] = lambda module: True) -> tuple[Path, ...]:
    """Files and the package's files that they import at run time, and so on, sorted.

    `within`: of a dotted module name, whether to go there.
    """
    used: set[Path] = set()
    queue = list(files)
    while queue:
        here = queue.pop()
        if here in used or not here.is_file():
            continue
        used.add(here)
        queue += [file for m in _read(here)[1] if within(m) and (file := _file_of(m)) is not None]
    return tuple(sorted(used))


@functools.cache
def _file_of(module: str) -> Path | None:
    place = PACKAGE.joinpath(*module.split(".")[1:])
    return next((f for f in (place.with_suffix(".py"), place / "__init__.py") if f.is_file()), None)


Read = tuple[str, list[str]]


def _read(file: Path) -> Read:
    """(plain hash, the package's modules that it imports): once for a file of this size and time of change."""
    stat = file.stat()
    return _read_at(file, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(4096)
def _read_at(file: Path, size: int, changed: int) -> Read:
    content = file.read_bytes()
    key = hashlib.sha256(content).hexdigest()
    known = _known()
    if key not in known:
        tree = ast.parse(content)
        text = "".join(_walk(tree, False))
        known[key] = (hashlib.sha256(text.encode()).hexdigest(), sorted(set(_imported(tree))))
    return known[key]


@functools.cache
def _known() -> dict[str, Read]:
    """What was read of files with this content, by this process or an earlier one: parsing all takes near a second."""
    return _written()


def _written() -> dict[str, Read]:
    """What processes have written of it by now."""
    try:
        return {k: (h, list(m)) for k, (h, m) in json.loads(_kept().read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


@functools.cache
def _kept() -> Path:
    rule = hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode()).hexdigest()[:16]
    return cache_folder() / "hashes" / f"source-{rule}.json"


def keep() -> None:
    """Write what was read for later processes, beside what others wrote meanwhile. A cache that cannot be written is no
    error.
    """
    try:
        write_json(_kept(), {**_written(), **_known()})
    except OSError:
        return


def _imported(node: ast.AST) -> Iterator[str]:
    """Modules of the package (or names in one, which `closure` passes over) that run-time imports name, anywhere."""
    package = PACKAGE.name
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (a.name for a in child.names if a.name.split(".")[0] == package)
        elif isinstance(child, ast.ImportFrom):
            if not child.level and (child.module or "").split(".")[0] == package:
                yield str(child.module)
                yield from (f"{child.module}.{a.name}" for a in child.names)
        elif (other := _at_run_time(child)) is not None:
            yield from _imported(ast.Module(other, []))
        elif isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _imported(child)


def _at_run_time(node: ast.AST) -> list[ast.stmt] | None:
    """Of an `if TYPE_CHECKING` what runs in its place; None for any other node."""
    checking = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return node.orelse if checking and isinstance(node, ast.If) else None


def _walk(node: Any, local: bool) -> Iterator[str]:
    """The tree as text, without what decides no number. `local`: inside a function."""
    if isinstance(node, list):
        yield "["
        for item in node:
            yield from _walk(item, local)
        yield "]"
    elif not isinstance(node, ast.AST):
        yield f"{node!r} "
    elif isinstance(node, _IMPORTS) or (isinstance(node, ast.Expr) and _is_text(node.value)):
        return
    elif (other := _at_run_time(node)) is not None:
        for item in other:
            yield from _walk(item, local)
    elif isinstance(node, ast.Raise):
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        yield from ("Raise(", *_walk(raised, local), ")")
    elif isinstance(node, ast.keyword) and node.arg in _WORDS:
        return
    elif isinstance(node, ast.AnnAssign) and not local and _is_shown(node):
        return
    elif isinstance(node, ast.AnnAssign) and local:
        if node.value is not None:
            yield from _walk(ast.Assign([node.target], node.value), local)
    else:
        inside = local or isinstance(node, _FUNCTIONS)
        unsaid = _SKIPPED | {"annotation"} if isinstance(node, ast.arg) else _SKIPPED
        yield f"{type(node).__name__}("
        for name, value in ast.iter_fields(node):
            if name not in unsaid and value is not None and value != []:
                yield from (f"{name}=", *_walk(value, inside))
        yield ")"


def _is_shown(node: ast.AnnAssign) -> bool:
    """Whether it is a class's constant that only lists show."""
    named = isinstance(node.target, ast.Name) and node.target.id in _SHOWN
    return named and ast.unparse(node.annotation).startswith("ClassVar")


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
