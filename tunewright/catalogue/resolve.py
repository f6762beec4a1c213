"""From a name to the class it names, and to a method with its parameters; what a class says of itself."""

from __future__ import annotations

import functools
import importlib
import os
import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.catalogue.folders import PACKAGE, THIRD_PARTY, entries, find, lookup
from tunewright.catalogue.parameters import Use, construct, needs_of, parameters
from tunewright.errors import MethodError, did_you_mean

if TYPE_CHECKING:
    from tunewright.contract.method import Method


def load_method(name: str, where: str | None = None) -> type[Method]:
    """Import one method: the one Method subclass that its file defines. Errors say which file breaks the rule."""
    module_name = find(name, where)
    entry = lookup(name)
    assert entry is not None
    return _load(module_name, entry.attribute)


@functools.cache
def _load(module_name: str, attribute: str | None) -> type[Method]:
    from tunewright.contract.class_check import check_class
    from tunewright.contract.method import Method

    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        entry = next((n for n, e in entries().items() if e.module == module_name and e.room == THIRD_PARTY), None)
        what = f"the entry point '{entry}': " if entry else ""
        raise MethodError(
            f"{what}{module_name} cannot be imported: {error}", remedy="`tunewright doctor` says which extra is missing"
        ) from error
    except Exception as error:
        if module_name.startswith("tunewright."):
            raise
        raise _broken(module_name, error) from error
    if attribute is not None:
        cls = getattr(module, attribute, None)
        if cls is None:
            classes = [n for n, c in vars(module).items() if isinstance(c, type) and c.__module__ == module_name]
            raise MethodError(
                f"{module_name} has no '{attribute}'", where=module.__file__, remedy=did_you_mean(attribute, classes)
            )
        if not (isinstance(cls, type) and issubclass(cls, Method)):
            raise MethodError(
                f"'{attribute}' is no Method",
                where=module.__file__,
                remedy="let the entry point name a class that derives from it",
            )
    else:
        own = [
            c
            for c in vars(module).values()
            if isinstance(c, type)
            and issubclass(c, Method)
            and c.__module__ == module_name
            and not c.__name__.startswith("_")
        ]
        if len(own) != 1:
            raise MethodError(
                f"{module_name} defines {len(own)} Method classes, not one",
                where=module.__file__,
                remedy="one file per method: move the others",
            )
        cls = own[0]
    check_class(cls)
    return cls


def _broken(module: str, error: Exception) -> MethodError:
    """What a third party's file does wrong while it is imported: the line, and a field without a type in plain
    words.
    """
    here = traceback.extract_tb(error.__traceback__)
    own = [
        f
        for f in here
        if "importlib" not in f.filename
        and f"{os.sep}pydantic{os.sep}" not in f.filename
        and PACKAGE not in Path(f.filename).parents
    ]
    where = f"{own[-1].filename}:{own[-1].lineno}" if own else module
    untyped = re.search(r"non-annotated attribute was detected: `(\w+) = (.+?)`\.", str(error))
    if untyped:
        name, value = untyped.groups()
        cls = own[-1].line.split("(")[0].removeprefix("class ") if own and own[-1].line else module
        remedy = _typed(name, value)
        return MethodError(f"{cls}: '{name}' has no type", where=where, remedy=remedy)
    return MethodError(
        f"{module} cannot be imported: {type(error).__name__}: {error}",
        where=where,
        remedy="mend the file, or take the package out",
    )


def _typed(name: str, value: str) -> str:
    """What to write for `name = value` in a class: a parameter with its type, or a constant."""
    number = "int" if value.isdigit() else "float" if re.fullmatch(r"[-\d.e]+", value) else None
    kind = number or ("str" if value[:1] in "'\"" else "bool" if value in ("True", "False") else None)
    constant = f"a constant of the class is _{name.strip('_')}: ClassVar[...] = {value}"
    if kind is None:
        return constant
    return f"write {name}: {kind} = Field({value}, description='... with its unit'); {constant}"


def build(use: Use, where: str | None = None) -> Method:
    """Make the method that a recipe names.

    RecipeError with file:line, field, nearest name, allowed range and an example.
    """
    return construct(load_method(use.name, where or use.place), use, where or use.place or use.name)


def describe(name: str) -> dict[str, Any]:
    """{name, room, category, slots, parameters, needs, papers, summary} of one entry; imports its module."""
    cls = load_method(name)
    entry = lookup(name)
    assert entry is not None
    return {
        "name": entry.name,
        "room": entry.room,
        "category": cls.category,
        "summary": entry.summary() or (cls.__doc__ or "").split("\n", 1)[0],
        "slots": list(cls.slots()),
        "parameters": parameters(cls),
        "needs": needs_of(cls),
        "papers": list(cls.papers),
    }
