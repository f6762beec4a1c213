"""Flags over the file: `--set train.seed=1`, `--set stages.0.budget.steps=24`."""

from __future__ import annotations

import re
from typing import Any

from tunewright.errors import RecipeError, did_you_mean
from tunewright.recipe import yaml_text
from tunewright.recipe.yaml_text import Document, Path

_SHORTHAND = {"model": "name", "train": "path", "eval": "path", "keep": "data"}
"""Keys whose plain string stands for a mapping with this one key."""

_LISTS = ("train", "eval", "keep")
"""Keys whose one value stands for a list of it."""
_METHOD_LISTS = ("methods", "after", "synthesize", "select", "probes", "adapt")
_NAMED = re.compile(r"(gate|(stages\.\d+\.)?data\.replay)\.")
"""Mappings whose own keys are names with points in them: a file, a stage's, a figure's."""
RENAMED = {"measure": "probes", "evaluation": "measurement"}
"""Keys of a recipe that had another name: old -> today's. Both are read."""


def rename_old_keys(document: Document) -> list[str]:
    """Bring keys to today's names, in place; returns what to tell the reader. RecipeError where both are written."""
    notes = []
    for old, new in RENAMED.items():
        if old not in document.tree:
            continue
        where = document.place((old,))
        if new in document.tree:
            raise RecipeError(f"'{old}' and '{new}' mean the same", where=where, remedy=f"keep {new}")
        document.tree[new] = document.tree.pop(old)
        document.places = {(new, *p[1:]) if p[:1] == (old,) else p: w for p, w in document.places.items()}
        notes.append(f"{where}: '{old}' is called '{new}' today; the old name is still read")
    return notes


def override(document: Document, text: str) -> None:
    """Set one value in a document's tree, in place. RecipeError when the path leads nowhere."""
    where = f"--set {text}"
    dotted, equals, value = text.partition("=")
    if not equals or not dotted.strip():
        raise RecipeError("a flag that sets a value is key=value", where=where, remedy="write --set train.seed=1")
    path = _parts(dotted.strip())
    path = (RENAMED.get(str(path[0]), path[0]), *path[1:])
    tree = document.tree
    if path[0] == "stages" and "stages" not in tree:
        _name_the_stage(document)
    if path[0] in ("methods", "budget") and "stages" in tree:
        if len(tree["stages"] or ()) != 1:
            raise RecipeError(
                f"the recipe has several stages: whose {path[0]}?",
                where=where,
                remedy=f"write --set stages.0.{dotted}={value}",
            )
        path = ("stages", 0, *path)
    new = yaml_text.read(value, where).tree
    _set(tree, path, new, where)
    document.places = {p: w for p, w in document.places.items() if p[: len(path)] != path}
    document.places[path] = where


def _parts(dotted: str) -> Path:
    """The keys of a path; what stands behind one of `_NAMED` is one key, whatever points are in it."""
    head = _NAMED.match(dotted)
    whole = (dotted[head.end() :],) if head else ()
    above = dotted[: head.end() - 1] if head else dotted
    return (*(int(p) if p.isdigit() else p for p in above.split(".")), *whole)


def _name_the_stage(document: Document) -> None:
    """Turn top-level `methods` and `budget` into the one stage that they mean, keeping their places."""
    tree = document.tree
    stage: dict[str, Any] = {"name": "main"}
    for key in ("methods", "budget"):
        if key in tree:
            stage[key] = tree.pop(key)
            moved = {("stages", 0, *p): w for p, w in document.places.items() if p[:1] == (key,)}
            document.places.update(moved)
    tree["stages"] = [stage]


def _set(tree: Any, path: Path, value: Any, where: str) -> None:
    here = tree
    for i, part in enumerate(path[:-1]):
        following = path[i + 1]
        child = _get(here, part, where)
        if part in _LISTS and isinstance(following, int) and child is not None and not isinstance(child, list):
            child = here[part] = [child]
        if not isinstance(child, dict | list):
            named = path[i - 1] if isinstance(part, int) and i else part  # of an item, the list's name
            child = _expand(child, named, following, where)
            here[part] = child
        elif isinstance(child, list) and isinstance(following, str):
            if len(child) != 1:
                raise RecipeError(
                    f"'{part}' is a list of {len(child)}",
                    where=where,
                    remedy=f"write its place from 0, as in {part}.0.{following}",
                )
            child[0] = child[0] if isinstance(child[0], dict | list) else _expand(child[0], part, following, where)
            child = child[0]
        if (
            isinstance(part, int)
            and i
            and path[i - 1] in _METHOD_LISTS
            and isinstance(child, dict)
            and following not in child
        ):
            raise RecipeError(
                f"the method here is '{next(iter(child), None)}', not '{following}'",
                where=where,
                remedy=did_you_mean(str(following), child),
            )
        here = child
    last = path[-1]
    if isinstance(here, list):
        _get(here, last, where)
    here[last] = value


def _get(here: Any, part: str | int, where: str) -> Any:
    if isinstance(here, list):
        if not isinstance(part, int) or part >= len(here):
            raise RecipeError(
                f"'{part}' is no place in a list of {len(here)}",
                where=where,
                remedy=f"write a number from 0 to {len(here) - 1}",
            )
        return here[part]
    if isinstance(part, int):
        raise RecipeError(
            f"'{part}' is a number where a key is expected", where=where, remedy=did_you_mean(str(part), map(str, here))
        )
    return here.get(part)


def _expand(child: Any, part: str | int, following: str | int, where: str) -> dict[str, Any]:
    """A plain value that a flag reaches into: "lora" with lora.rank becomes {lora: {}}; "model" becomes {name: ...}."""
    if child is None:
        return {}
    if child == following:
        return {str(child): None}
    if isinstance(child, str) and part in _SHORTHAND:
        return {_SHORTHAND[str(part)]: child}
    raise RecipeError(
        f"'{part}' is the plain value {child!r}: it has no '{following}'",
        where=where,
        remedy=f"write --set {part}=VALUE",
    )
