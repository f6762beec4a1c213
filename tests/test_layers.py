"""Which way imports go: every room may import from the rooms above it in this list, and from no other. No cycles.

Imports inside functions and for type checking alone count too: a reader follows them like any other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tunewright

PACKAGE = Path(tunewright.__file__).parent
LAYERS = (
    "errors",
    "machine",
    "files",
    "models",
    "contract",
    "pieces",
    "tasks",
    "data",
    "catalogue",
    "recipe",
    "loading",
    "measure",
    "training",
    "methods/needs",
    "methods",
    "weights",
    "report",
    "runs",
    "finished",
    "shipping",
    "paired",
    "planning",
    "serve",
    "conformance",
    "papers",
    "trials",
    "laws",
    "claims/lab",
    "claims",
    "claims/papers",
    "compare",
    "board",
    "agents",
    "commands",
)
FACADE = "tunewright"
"""The package itself offers names of all rooms, and is imported by none of them but for its version."""


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the package but `__main__` and `cli`, which only call the command line."""
    out = {}
    for file in sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "__main__.py", PACKAGE / "cli.py"}):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        out[".".join([FACADE, *(parts[:-1] if parts[-1] == "__init__" else parts)])] = file
    return out


MODULES = modules()


def room(module: str) -> str:
    """The longest entry of the list that a module lies under."""
    path = module.removeprefix(FACADE).removeprefix(".").replace(".", "/")
    fitting = [layer for layer in LAYERS if path == layer or path.startswith(layer + "/")]
    return max(fitting, key=len) if fitting else path


def imported(file: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of the package's own modules in a file, wherever it stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if a.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == FACADE:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in MODULES:
                    yield node.lineno, whole
                elif node.module != FACADE or alias.name != "__version__":
                    yield node.lineno, str(node.module)


def test_the_root_holds_the_facade_the_errors_and_rooms():
    assert sorted(p.name for p in PACKAGE.glob("*.py")) == ["__init__.py", "__main__.py", "cli.py", "errors.py"]
    for module in MODULES:
        assert module == FACADE or room(module) in LAYERS, (
            f"{module} is in no room of the list: add its room where it belongs"
        )


def test_every_room_of_the_list_is_there():
    assert {room(m) for m in MODULES if m != FACADE} == set(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_room_imports_from_the_rooms_before_it(layer):
    allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    wrong = [
        f"{file.relative_to(PACKAGE.parent)}:{line} imports {target}"
        for module, file in MODULES.items()
        if module != FACADE and room(module) == layer
        for line, target in imported(file)
        if room(target) not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_by_a_detour():
    """No cycle between modules either, within a room."""
    graph = {m: sorted({t for _, t in imported(f)} - {m}) for m, f in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, "a cycle: " + " -> ".join([*trail[trail.index(module) :], module])
        if module in done:
            return
        for target in graph[module]:
            visit(target, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())
