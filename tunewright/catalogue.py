"""What a recipe may name, found by listing folders: nothing is imported until one is asked for.

A method is one file; its folder is its room, its file name (with - for _) its name. Third parties add theirs through
the entry-point group "tunewright.methods", whose entries name a module or a class.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import re
import tomllib
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.errors import MethodError, RecipeError, did_you_mean

if TYPE_CHECKING:
    from tunewright.method import Method
    from tunewright.recipe.uses import MethodUse

_PACKAGE = Path(__file__).parent
_NOT_ROOMS = {"needs", "loops"}
_WEIGHTS = ("merge", "grow", "prune", "edit")
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
        """The first line of the module's docstring, read without importing it."""
        if self.file is None or not self.file.is_file():
            return ""
        try:
            text = ast.get_docstring(ast.parse(self.file.read_text(encoding="utf-8"))) or ""
        except SyntaxError as error:
            return f"cannot be read: {error.msg} at line {error.lineno}"
        return text.split("\n", 1)[0]


def _rooms() -> list[str]:
    methods = _PACKAGE / "methods"
    found = (
        sorted(f"methods/{d.name}" for d in methods.iterdir() if d.is_dir() and d.name not in _NOT_ROOMS and d.name[0] not in "_.") if methods.is_dir() else []
    )
    return [*found, "data/select", "data/synthesize", *(f"weights/{w}" for w in _WEIGHTS), "inference", "measure"]


def rooms() -> list[str]:
    """The rooms that hold something, by path: "methods/adapters", ..., "weights/merge", "measure"."""
    held = {e.room for e in entries().values()}
    return [r for r in _rooms() if r in held]


def _files(room: str) -> list[Path]:
    folder = _PACKAGE / room
    found = [f for f in sorted(folder.glob("*.py")) if not f.name.startswith("_")]
    # The measurements that always run share this room with the probes that a recipe may name.
    return [f for f in found if "def probe(" in f.read_text(encoding="utf-8")] if room == "measure" else found


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
    found: dict[str, Entry] = {}
    for room in _rooms():
        for file in _files(room):
            entry = Entry(file.stem.replace("_", "-"), room, f"tunewright.{room.replace('/', '.')}.{file.stem}", file)
            if entry.name in found:
                raise MethodError(f"two files are named '{entry.name}': in {found[entry.name].room} and in {room}", remedy="rename one of them")
            found[entry.name] = entry
    for point in importlib.metadata.entry_points(group="tunewright.methods"):
        if point.name in found:
            raise MethodError(f"the entry point '{point.name}' ({point.value}) takes a name that is there", remedy="give it another name")
        found[point.name] = Entry(point.name, THIRD_PARTY, point.module, _file_of(point.module), point.attr or None)
    return dict(sorted(found.items()))


@functools.cache
def aliases() -> dict[str, str]:
    """Other names of methods -> their name today."""
    with (_PACKAGE / "aliases.toml").open("rb") as file:
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
        raise RecipeError(f"no method is named '{name}'", where=where, remedy=did_you_mean(name, [*entries(), *aliases()]))
    return entry.module


def load_method(name: str, where: str | None = None) -> type[Method]:
    """Import one method: the one Method subclass that its file defines. Errors say which file breaks the rule."""
    module_name = find(name, where)
    entry = lookup(name)
    assert entry is not None
    return _load(module_name, entry.attribute)


@functools.cache
def _load(module_name: str, attribute: str | None) -> type[Method]:
    from tunewright.method import Method, check_class

    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        entry = next((n for n, e in entries().items() if e.module == module_name and e.room == THIRD_PARTY), None)
        what = f"the entry point '{entry}': " if entry else ""
        raise MethodError(f"{what}{module_name} cannot be imported: {error}", remedy="`tunewright doctor` says which extra is missing") from error
    except Exception as error:
        if module_name.startswith("tunewright."):
            raise
        raise _broken(module_name, error) from error
    if attribute is not None:
        cls = getattr(module, attribute, None)
        if cls is None:
            classes = [n for n, c in vars(module).items() if isinstance(c, type) and c.__module__ == module_name]
            raise MethodError(f"{module_name} has no '{attribute}'", where=module.__file__, remedy=did_you_mean(attribute, classes))
        if not (isinstance(cls, type) and issubclass(cls, Method)):
            raise MethodError(f"'{attribute}' is no Method", where=module.__file__, remedy="let the entry point name a class that derives from it")
    else:
        own = [
            c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Method) and c.__module__ == module_name and not c.__name__.startswith("_")
        ]
        if len(own) != 1:
            raise MethodError(f"{module_name} defines {len(own)} Method classes, not one", where=module.__file__, remedy="one file a method: move the others")
        cls = own[0]
    check_class(cls)
    return cls


def _broken(module: str, error: Exception) -> MethodError:
    """What a third party's file does wrong while it is imported: the line, and a field without a type in plain words."""
    here = traceback.extract_tb(error.__traceback__)
    own = [f for f in here if "importlib" not in f.filename and f"{os.sep}pydantic{os.sep}" not in f.filename and _PACKAGE not in Path(f.filename).parents]
    where = f"{own[-1].filename}:{own[-1].lineno}" if own else module
    untyped = re.search(r"non-annotated attribute was detected: `(\w+) = (.+?)`\.", str(error))
    if untyped:
        name, value = untyped.groups()
        kind = "float" if re.fullmatch(r"[-\d.e]+", value) and not value.isdigit() else "int" if value.isdigit() else "str"
        cls = own[-1].line.split("(")[0].removeprefix("class ") if own and own[-1].line else module
        remedy = f"write {name}: {kind} = Field({value}, description='... with its unit')"
        return MethodError(f"{cls}: the field '{name}' has no type", where=where, remedy=remedy)
    return MethodError(f"{module} cannot be imported: {type(error).__name__}: {error}", where=where, remedy="mend the file, or take the package out")


def build(use: MethodUse, where: str | None = None) -> Method:
    """Make the method that a recipe names. RecipeError with file:line, field, nearest name, allowed range and an example."""
    from tunewright._parameters import construct

    return construct(load_method(use.name, where or use.place), use, where or use.place or use.name)


def describe(name: str) -> dict[str, Any]:
    """{name, room, slots, parameters, needs, papers, summary} of one entry; imports its module."""
    from tunewright._parameters import needs_of, parameters

    cls = load_method(name)
    entry = lookup(name)
    assert entry is not None
    return {
        "name": entry.name,
        "room": entry.room,
        "summary": entry.summary() or (cls.__doc__ or "").split("\n", 1)[0],
        "slots": list(cls.slots()),
        "parameters": parameters(cls),
        "needs": needs_of(cls),
        "papers": list(cls.papers),
    }


@functools.cache
def tasks() -> tuple[str, ...]:
    """Names of the tasks, by the files in tasks/ that define a Task."""
    folder = _PACKAGE / "tasks"
    return tuple(f.stem.replace("_", "-") for f in sorted(folder.glob("*.py")) if f.stem != "base" and "(Task)" in f.read_text(encoding="utf-8"))
