"""Several stages as one short entry of `stages`: `each` lists the data of a sequence of tasks, `rounds` says how often
one is gone through anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from pydantic_core import PydanticCustomError

from tunewright.errors import RecipeError
from tunewright.recipe import yaml_text
from tunewright.recipe.fields import problem
from tunewright.recipe.naming import plain_name


def expanded(stages: Sequence[Any]) -> tuple[list[Any], list[tuple[int, int | None]]]:
    """Stages with every `each` and `rounds` written out, and for each where it came from: (entry, place in its `each`
    or None).

    An item is a file to train on, or a mapping of keys of `data` with a `name`. The stages are called by the name, else
    by the file; the first starts where the entry says, every later one where the one before it ended, or from the
    `start` that `each` gives: {of: [...], start: base}.
    """
    out: list[Any] = []
    origins: list[tuple[int, int | None]] = []
    for i, stage in enumerate(stages):
        if isinstance(stage, Mapping) and stage.get("rounds") is not None:
            made = _rounds(dict(stage), i)
            out += made
            origins += [(i, None)] * len(made)
            continue
        if not isinstance(stage, Mapping) or "each" not in stage:
            out.append(stage)
            origins.append((i, None))
            continue
        items, again = stage["each"], None
        if isinstance(items, Mapping):
            items, again = _of(items, i)
            if again is not None and "start" in stage:
                raise problem("`start` is written twice", "keep the one in `each`", ("stages", i, "start"))
        if not isinstance(items, list) or not items:
            raise problem("`each` lists what the stages train on", "write each: [one.jsonl, two.jsonl]", _at(i))
        if "name" in stage:
            raise problem(
                "`name` is of one stage, and `each` makes several",
                "give each its own: each: [{name: one, train: one.jsonl}]",
                ("stages", i, "name"),
            )
        for k, item in enumerate(items):
            out.append(_one({n: v for n, v in stage.items() if n != "each"}, item, (*_items(stage, i), k), again))
            origins.append((i, k))
    return out, origins


def with_rows_of_last(tree: dict[str, Any]) -> dict[str, Any]:
    """A recipe that names no training rows for all, and whose stages all name their own: the last one's are what it is
    about, and are written as `data.train`.
    """
    if not rows_are_of_last(tree):
        return tree
    stages, own = tree["stages"], tree["stages"][-1]["data"]
    rest = {k: v for k, v in own.items() if k != "train"}
    last = {k: v for k, v in stages[-1].items() if k != "data"} | ({"data": rest} if rest else {})
    return {**tree, "stages": [*stages[:-1], last], "data": {**(tree.get("data") or {}), "train": own["train"]}}


def rows_are_of_last(tree: Mapping[str, Any]) -> bool:
    """Whether the last stage's rows are those of `data.train`, since every stage of a recipe without it has its own."""
    data, stages = tree.get("data"), tree.get("stages")
    if not isinstance(data, Mapping | None) or (data or {}).get("train") is not None or not isinstance(stages, list):
        return False
    own = [stage.get("data") if isinstance(stage, Mapping) else None for stage in stages]
    return bool(own) and all(isinstance(d, Mapping) and d.get("train") is not None for d in own)


def _of(each: Mapping[str, Any], i: int) -> tuple[Any, str | None]:
    """The items and the start of an `each` that is a mapping."""
    again = each.get("start")
    if set(each) - {"of", "start"} or again is not None and not isinstance(again, str):
        raise problem(
            f"`each` lists what the stages train on, and what they start from, got {dict(each)!r}",
            "write each: [one.jsonl], or each: {of: [one.jsonl], start: base}",
            _at(i),
        )
    return each.get("of"), again


def _items(stage: Mapping[str, Any], i: int) -> tuple[str | int, ...]:
    """Where the items of an entry stand."""
    return (*_at(i), "of") if isinstance(stage["each"], Mapping) else _at(i)


def _rounds(stage: dict[str, Any], i: int) -> list[dict[str, Any]]:
    """The stages of an entry that is gone through several times: NAME-1, NAME-2 ..., the first from where it says, each
    later one from where the one before ended, or from the `start` that `rounds` gives.
    """
    given, at = stage.pop("rounds"), ("stages", i, "rounds")
    told = dict(given) if isinstance(given, Mapping) else {"times": given}
    times, again = told.pop("times", None), told.pop("start", None)
    if told or isinstance(times, bool) or not isinstance(times, int) or times < 1:
        raise problem(
            f"`rounds` is how often a stage is gone through, got {given!r}",
            "write rounds: 3, or rounds: {times: 3, start: base}",
            at,
        )
    if again is not None and not isinstance(again, str):
        raise problem(f"what every round starts from is a name, got {again!r}", "write start: base", at)
    for other in ("each", "round"):
        if stage.get(other) is not None:
            raise problem(
                f"`rounds` and `{other}` are both written: each makes stages of its own",
                f"write two entries, or leave {other} out",
                at,
            )
    if not isinstance(stage.get("name"), str):
        raise problem("a stage that is gone through several times needs a name", "write name: round beside it", at)
    first = {n: v for n, v in stage.items() if n != "name"}
    later = {n: v for n, v in first.items() if n != "start"} | ({"start": again} if again is not None else {})
    return [{**(first if k == 1 else later), "name": f"{stage['name']}-{k}", "round": k} for k in range(1, times + 1)]


def _at(i: int) -> tuple[str | int, ...]:
    return ("stages", i, "each")


def _one(shared: dict[str, Any], item: Any, at: tuple[str | int, ...], again: str | None) -> dict[str, Any]:
    own = {"train": item} if isinstance(item, str) else dict(item) if isinstance(item, Mapping) else None
    if own is None or not ({"name", "train"} & own.keys()):
        raise problem(
            "an item of `each` is a file, or a mapping of keys of `data`",
            "write each: [one.jsonl], or each: [{name: one, train: one.jsonl}]",
            at,
        )
    name = own.pop("name", None) or _called(own.get("train"))
    if again is not None:
        shared = {**shared, "start": again}
    elif at[-1] and "start" in shared:
        shared = {n: v for n, v in shared.items() if n != "start"}
    return {**shared, "name": name, "data": {**(shared.get("data") or {}), **own}}


def _called(train: Any) -> str:
    """A stage's name from its file's."""
    first = train[0] if isinstance(train, list) and train else train
    path = str(first.get("path", "") if isinstance(first, Mapping) else first)
    stem = PurePosixPath(path.rstrip("/").removesuffix(".gz")).stem
    return plain_name(stem) or "task"


def expand(document: yaml_text.Document) -> None:
    """Write out every `each` and `rounds` of a document, in place; what came of an entry is placed where the entry
    is.
    """
    stages = document.tree.get("stages")
    if not isinstance(stages, list) or not any(
        isinstance(s, Mapping) and {"each", "rounds"} & s.keys() for s in stages
    ):
        return
    try:
        made, origins = expanded(stages)
    except PydanticCustomError as error:
        said: dict[str, Any] = dict(error.context or {})
        raise RecipeError(said["what"], where=document.place(tuple(said["path"])), remedy=said["remedy"]) from None
    places = {p: where for p, where in document.places.items() if p[:1] != ("stages",) or len(p) == 1}
    for j, (i, k) in enumerate(origins):
        for path, where in document.places.items():
            if path[:2] != ("stages", i) or path[2:3] in (("each",), ("rounds",)):
                continue
            places[("stages", j, *path[2:])] = where
        if k is not None:
            at = (*_items(stages[i], i), k)
            item = document.place(at)
            places[("stages", j, "name")] = places[("stages", j, "data")] = item
            for path, where in document.places.items():
                if path[: len(at)] == at and len(path) > len(at):
                    places[("stages", j, "data", *path[len(at) :])] = where
    document.tree["stages"], document.places = made, places
