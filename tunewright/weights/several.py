"""Several merges in one file of mergekit's form, set apart by `---`: later ones may name earlier ones as models.

The one without a name is the result; the others are steps on the way and stay beside it, in FOLDER.steps/NAME, so that
a second try finds them. Where all have names, each is a result, in FOLDER/NAME.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tunewright.errors import RecipeError
from tunewright.files.cache import write_json
from tunewright.weights.engine import Engine
from tunewright.weights.mergekit_yaml import documents, request_of
from tunewright.weights.request import Request
from tunewright.weights.stream import Merged

NAME = re.compile(r"\w[\w.-]*")


def merge_all(file: Path, out: Path, run: Callable[[Request], Merged], **options: Any) -> Merged:
    """Run every merge of a file in the order in which they need each other; the result of the last one.

    All are read before the first is run. RecipeError for names that are no folders' names, that two have, or that need
    each other.
    """
    merges = documents(file)
    if len(merges) == 1:
        return run(request_of(merges[0], str(file), out, file.parent, **options))
    named = _named(merges, str(file))
    folder = out.with_name(f"{out.name}.steps") if None in named else out
    steps = {n: folder / n for n in named if n is not None}
    order = _ordered(named, str(file))

    def request(name: str | None) -> Request:
        where = f"{file}: {name}" if name else str(file)
        return request_of(named[name], where, steps[name] if name else out, file.parent, steps, **options)

    for name in order:
        request(name)
    done: Merged | None = None
    notes: list[str] = []
    for name in order:
        asked = request(name)
        if name is None:
            done = run(asked)
        else:
            done = _step(asked, folder / f"{name}.json", run)
            notes.append(f"'{name}' is in {steps[name]}" + ("" if done.tensors else ", from an earlier try"))
    assert done is not None  # a file has a merge
    done.notes += notes
    return done


def _step(request: Request, kept: Path, run: Callable[[Request], Merged]) -> Merged:
    """A step, unless it is there from the same request and the same models."""
    engine = Engine(request)
    key = {"key": engine.key()}
    for s in engine.sources:
        s.close()
    try:
        there = json.loads(kept.read_text(encoding="utf-8")) == key and request.out.is_dir()
    except (OSError, ValueError):
        there = False
    if there:
        return Merged(request.out, 0, 0, 0.0, None, 0)
    done = run(request)
    write_json(kept, key)
    return done


def _named(merges: list[dict[str, Any]], where: str) -> dict[str | None, dict[str, Any]]:
    out: dict[str | None, dict[str, Any]] = {}
    for i, merge in enumerate(merges):
        name = merge.get("name")
        if name is not None and not (isinstance(name, str) and NAME.fullmatch(name)):
            raise RecipeError(
                f"{name!r} is no name of a merge", where=where, remedy="write letters, digits, '-' and '_'"
            )
        if name in out:
            what = f"two merges are named '{name}'" if name else "two merges have no name"
            raise RecipeError(what, where=f"{where}: merge {i + 1}", remedy="give each a name of its own: name: first")
        out[name] = merge
    return out


def _ordered(named: Mapping[str | None, dict[str, Any]], where: str) -> list[str | None]:
    needs = {n: {x for x in _texts(m) if x in named and x is not None} - {n} for n, m in named.items()}
    if own := [n for n, m in named.items() if n is not None and any(x == n for x in _texts({**m, "name": None}))]:
        raise RecipeError(f"the merge '{own[0]}' names itself", where=where, remedy="name another model")
    order: list[str | None] = []
    while len(order) < len(named):
        ready = [n for n in named if n not in order and needs[n] <= set(order)]
        if not ready:
            left = ", ".join(f"'{n}'" for n in named if n not in order and n)
            raise RecipeError(f"these merges need each other: {left}", where=where, remedy="name models that are there")
        order += sorted(ready, key=lambda n: n is None)  # the result comes last
    return sorted(order, key=lambda n: n is None)


def _texts(tree: Any) -> Iterator[str]:
    """Every model that a merge may name: its texts, and both sides of MODEL+ADAPTER."""
    if isinstance(tree, str):
        yield from {tree, *tree.split("+")}
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            if key not in ("merge_method", "parameters", "chat_template", "dtype", "out_dtype", "filter", "tokens"):
                yield from _texts(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _texts(value)
