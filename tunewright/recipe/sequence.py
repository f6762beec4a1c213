"""A sequence of tasks as one short entry of `stages`: `each` lists the data, and the entry becomes a stage for each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from pydantic_core import PydanticCustomError

from tunewright.errors import RecipeError
from tunewright.recipe import yaml_text
from tunewright.recipe.fields import problem


def expanded(stages: Sequence[Any]) -> tuple[list[Any], list[tuple[int, int | None]]]:
    """Stages with every `each` written out, and for each where it came from: (entry, place in its `each` or None).

    An item is a file to train on, or a mapping of keys of `data` with a `name`. The stages are called by the name, else
    by the file; the first starts where the entry says, every later one where the one before it ended.
    """
    out: list[Any] = []
    origins: list[tuple[int, int | None]] = []
    for i, stage in enumerate(stages):
        if not isinstance(stage, Mapping) or "each" not in stage:
            out.append(stage)
            origins.append((i, None))
            continue
        items = stage["each"]
        if not isinstance(items, list) or not items:
            raise problem("`each` lists what the stages train on", "write each: [one.jsonl, two.jsonl]", _at(i))
        if "name" in stage:
            raise problem(
                "`name` is of one stage, and `each` makes several",
                "give each its own: each: [{name: one, train: one.jsonl}]",
                ("stages", i, "name"),
            )
        for k, item in enumerate(items):
            out.append(_one({n: v for n, v in stage.items() if n != "each"}, item, i, k))
            origins.append((i, k))
    return out, origins


def _at(i: int) -> tuple[str | int, ...]:
    return ("stages", i, "each")


def _one(shared: dict[str, Any], item: Any, i: int, k: int) -> dict[str, Any]:
    own = {"train": item} if isinstance(item, str) else dict(item) if isinstance(item, Mapping) else None
    if own is None or not ({"name", "train"} & own.keys()):
        raise problem(
            "an item of `each` is a file, or a mapping of keys of `data`",
            "write each: [one.jsonl], or each: [{name: one, train: one.jsonl}]",
            (*_at(i), k),
        )
    name = own.pop("name", None) or _called(own.get("train"))
    if k and "start" in shared:
        shared = {n: v for n, v in shared.items() if n != "start"}
    return {**shared, "name": name, "data": {**(shared.get("data") or {}), **own}}


def _called(train: Any) -> str:
    """A stage's name from its file's."""
    first = train[0] if isinstance(train, list) and train else train
    path = str(first.get("path", "") if isinstance(first, Mapping) else first)
    stem = PurePosixPath(path.rstrip("/").removesuffix(".gz")).stem
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_") or "task"


def expand(document: yaml_text.Document) -> None:
    """Write out every `each` of a document, in place; what came of an entry is placed where the entry is."""
    stages = document.tree.get("stages")
    if not isinstance(stages, list) or not any(isinstance(s, Mapping) and "each" in s for s in stages):
        return
    try:
        made, origins = expanded(stages)
    except PydanticCustomError as error:
        said: dict[str, Any] = dict(error.context or {})
        raise RecipeError(said["what"], where=document.place(tuple(said["path"])), remedy=said["remedy"]) from None
    places = {p: where for p, where in document.places.items() if p[:1] != ("stages",) or len(p) == 1}
    for j, (i, k) in enumerate(origins):
        for path, where in document.places.items():
            if path[:2] != ("stages", i) or path[2:3] == ("each",):
                continue
            places[("stages", j, *path[2:])] = where
        if k is not None:
            item = document.place((*_at(i), k))
            places[("stages", j, "name")] = places[("stages", j, "data")] = item
            for path, where in document.places.items():
                if path[:4] == (*_at(i), k) and len(path) > 4:
                    places[("stages", j, "data", *path[4:])] = where
    document.tree["stages"], document.places = made, places
