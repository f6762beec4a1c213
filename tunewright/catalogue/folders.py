"""Names and files: what a recipe may name, found by listing folders. Nothing is imported.

A method is one file; its folder is its room, its file name (with - for _) its name. Third parties add theirs through
the entry-point group "tunewright.methods", whose entries name a module or a class.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tunewright.contract.metric import OWN
from tunewright.errors import MethodError, RecipeError, did_you_mean, nearest
from tunewright.machine import installed
from tunewright.tasks import own_names

PACKAGE = Path(__file__).parents[1]
_NOT_ROOMS = {"needs"}
_WEIGHTS = ("merge", "edit")
THIRD_PARTY = "entry point"


@dataclass(frozen=True)
class Entry:
    """One thing that a recipe may name. `module`: where it is imported from; `attribute`: its class, when known."""

    name: str
    room: str
    module: str
    file: Path | None = None
    attribute: str | None = None

    def summary(self) -> str:
        """The first paragraph of the module's docstring as one line, read without importing it."""
        try:
            text = ast.get_docstring(self._parsed()) or ""
        except SyntaxError as error:
            return f"cannot be read: {error.msg} at line {error.lineno}"
        return " ".join(text.split("\n\n", 1)[0].split())

    def category(self) -> str | None:
        """What its class says under `category`, read without importing it; None where it says nothing."""
        try:
            classes = [n for n in self._parsed().body if isinstance(n, ast.ClassDef)]
        except SyntaxError:
            return None
        for node in (n for c in classes for n in c.body if isinstance(n, ast.AnnAssign)):
            if ast.unparse(node.target) == "category" and isinstance(node.value, ast.Constant):
                return str(node.value.value)
        return None

    def _parsed(self) -> ast.Module:
        there = self.file is not None and self.file.is_file()
        return ast.parse(self.file.read_text(encoding="utf-8") if there and self.file is not None else "")


def _rooms() -> list[str]:
    methods = PACKAGE / "methods"
    method_rooms = (
        sorted(
            f"methods/{d.name}"
            for d in methods.iterdir()
            if d.is_dir() and d.name not in _NOT_ROOMS and d.name[0] not in "_."
        )
        if methods.is_dir()
        else []
    )
    return [*method_rooms, "data/select", "data/synthesize", *(f"weights/{w}" for w in _WEIGHTS), "measure"]


def rooms() -> list[str]:
    """The rooms that hold something, by path: "methods/adapters", ..., "weights/merge", "measure"."""
    occupied = {e.room for e in entries().values()}
    return [r for r in _rooms() if r in occupied]


def without_papers(summary: str) -> str:
    """A summary without the papers' slugs, for pages that have them elsewhere."""
    return re.sub(r"; papers: [^)]*| \(papers: [^)]*\)", "", summary)


def question(room: str) -> str:
    """What a room's methods answer: the first paragraph of its `__init__.py`. MethodError where there is none."""
    file = PACKAGE / room / "__init__.py"
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) if file.is_file() else None
    if not text:
        raise MethodError(
            "this room does not say which question its methods answer",
            where=str(file),
            remedy='begin the file with a docstring, for example """What is minimised?"""',
        )
    return " ".join(text.split("\n\n", 1)[0].split())


def _files(room: str) -> list[Path]:
    folder = PACKAGE / room
    modules = [f for f in sorted(folder.glob("*.py")) if not f.name.startswith("_")]
    # The measurements that always run share this room with the probes that a recipe may name.
    return [f for f in modules if "def probe(" in f.read_text(encoding="utf-8")] if room == "measure" else modules


def _file_of(module: str) -> Path | None:
    """Where a third party's module is, without importing it (a package above it is imported by Python itself)."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


@functools.cache
def entries() -> dict[str, Entry]:
    """Everything that a recipe may name. MethodError when two files claim one name."""
    by_name: dict[str, Entry] = {}
    for room in _rooms():
        for file in _files(room):
            entry = Entry(file.stem.replace("_", "-"), room, f"tunewright.{room.replace('/', '.')}.{file.stem}", file)
            if entry.name in by_name:
                raise MethodError(
                    f"two files are named '{entry.name}': in {by_name[entry.name].room} and in {room}",
                    remedy="rename one of them",
                )
            by_name[entry.name] = entry
    for point in importlib.metadata.entry_points(group="tunewright.methods"):
        if point.name in by_name:
            package = point.dist.name if point.dist is not None else point.module.partition(".")[0]
            raise MethodError(
                f"the installed package '{package}' names a method '{point.name}' ({point.value}), which is taken",
                remedy=f"give it another name there, or: pip uninstall {package}",
            )
        by_name[point.name] = Entry(point.name, THIRD_PARTY, point.module, _file_of(point.module), point.attr or None)
    return dict(sorted(by_name.items()))


@functools.cache
def aliases() -> dict[str, str]:
    """Other names of methods -> their name today."""
    with (Path(__file__).parent / "aliases.toml").open("rb") as file:
        return dict(tomllib.load(file)["aliases"])


def canonical(name: str) -> str:
    """A name with - for _, and an alias replaced by today's name."""
    plain = name.strip().replace("_", "-")
    return aliases().get(plain, plain)


def lookup(name: str) -> Entry | None:
    """The entry of a name or alias, None when there is none."""
    return entries().get(name) or entries().get(canonical(name))


def find(name: str, where: str | None = None) -> str:
    """The module that a name is imported from. RecipeError with the nearest names when there is none."""
    entry = lookup(name)
    if entry is None:
        known = [*entries(), *aliases()]
        near = did_you_mean(name, known) if nearest(name, known) else "`tunewright methods` lists all that there are"
        raise RecipeError(f"no method is named '{name}'", where=where, remedy=near)
    return entry.module


@functools.cache
def tasks() -> tuple[str, ...]:
    """Names of the tasks: those of Tunewright, then those of other packages. Nothing is imported."""
    return tuple(dict.fromkeys([*own_names(), *installed.points(installed.TASKS)]))


@functools.cache
def metrics() -> tuple[str, ...]:
    """Names of the metrics, those of other packages last. Nothing is imported."""
    return tuple(dict.fromkeys([*OWN, *installed.points(installed.METRICS)]))
