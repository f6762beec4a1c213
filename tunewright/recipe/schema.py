"""JSON Schema of a recipe file, methods and their parameters included, so that editors complete it."""

from __future__ import annotations

import copy
from typing import Any

from pydantic import BaseModel

from tunewright import catalogue
from tunewright.recipe.load import BUILT_IN_OPTIMIZERS, ROOMS, goes_under


def _one_use(entry: catalogue.Entry) -> list[dict[str, Any]]:
    cls = catalogue.load_method(entry.name)
    fields = cls.model_json_schema()
    fields.pop("title", None)
    summary = entry.summary()
    named = {
        "type": "object",
        "properties": {entry.name: fields},
        "required": [entry.name],
        "additionalProperties": False,
        "description": summary,
    }
    bare = {"const": entry.name, "description": summary}
    return [named] if fields.get("required") else [bare, named]


def _use_schema(kind: str) -> dict[str, Any]:
    choices: list[dict[str, Any]] = []
    for entry in catalogue.entries().values():
        if goes_under(kind, entry.room) or entry.room == catalogue.THIRD_PARTY:
            choices += _one_use(entry)
    if kind == "optimizer":
        choices += [{"const": name} for name in BUILT_IN_OPTIMIZERS]
    return {"title": kind, "anyOf": choices} if choices else {"title": kind, "type": "string"}


def _uses(kind: str) -> dict[str, Any]:
    one = {"$ref": f"#/$defs/{kind}"}
    return {"anyOf": [{"type": "array", "items": one}, one]}


_PLACES = {"methods": "method", **{k: k for k in ("after", "synthesize", "select", "optimizer", "adapt")}}
_PLACES |= dict.fromkeys(("probes", "measure"), "probe")


_BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
"""Bounds that pydantic writes under its own names where a value may be a number or its text."""


def _point(node: Any) -> None:
    """Let every key that holds methods point at the definition of its kind, and name bounds as the standard does,
    in place.
    """
    if isinstance(node, list):
        for item in node:
            _point(item)
    if not isinstance(node, dict):
        return
    for ours, keyword in _BOUNDS.items():
        if ours in node and "anyOf" in node:
            node[keyword] = node.pop(ours)
    for name, field in node.get("properties", {}).items() if isinstance(node.get("properties"), dict) else ():
        if name in _PLACES and isinstance(field, dict):
            kind = _PLACES[name]
            target = {"$ref": f"#/$defs/{kind}"} if kind == "optimizer" else _uses(kind)
            kept = {k: field[k] for k in ("description", "examples", "default") if k in field}
            field.clear()
            field.update({**kept, **target})
    for child in node.values():
        _point(child)


_WITH_ROWS: dict[str, Any] = {
    "anyOf": [{"required": ["tasks"]}, {"required": ["data"], "properties": {"data": {"required": ["train"]}}}]
}
"""What a recipe of one stage has beside its methods."""


def with_adapters(schema: dict[str, Any], spec: type[BaseModel]) -> dict[str, Any]:
    """The schema of a recipe's file, which may list adapters (`spec`) in the place of `stages` or `methods`."""
    entry = copy.deepcopy(spec.model_json_schema(mode="validation"))
    _point(entry)
    defs = {**entry.pop("$defs", {}), **schema["$defs"], spec.__name__: entry}
    adapters = {
        "description": "several over one base, each a run of its own; all else is common to them",
        "type": "array",
        "minItems": 1,
        "items": {"$ref": f"#/$defs/{spec.__name__}"},
    }
    listed: dict[str, Any] = {"required": ["adapters"]}
    ways = [{"required": ["stages"]}, {"required": ["methods"], "not": listed, **_WITH_ROWS}, listed]
    return {
        **schema,
        "properties": {**schema["properties"], "adapters": adapters},
        "oneOf": ways,
        "$defs": defs,
    }


def recipe_schema(kind_of_recipe: type[BaseModel]) -> dict[str, Any]:
    """The schema of `Recipe`; imports every method once for its parameters."""
    schema = copy.deepcopy(kind_of_recipe.model_json_schema(mode="validation"))
    _point(schema)
    stage = (
        schema["$defs"]["StageSpec"]
        if "StageSpec" in schema.get("$defs", {})
        else schema["properties"]["stages"]["items"]
    )
    schema["properties"]["methods"] = {
        **stage["properties"]["methods"],
        "description": "the methods of the one stage; instead of `stages`",
    }
    schema["properties"]["budget"] = {
        **stage["properties"]["budget"],
        "description": "the budget of the one stage; instead of `stages`",
    }
    if "StreamSpec" in schema.get("$defs", {}):  # `test_time: [tent]` is short for its `adapt`
        stream = schema["$defs"]["StreamSpec"]
        stream["anyOf"] = [*_uses("adapt")["anyOf"], *(one for one in stream["anyOf"] if one.get("type") == "object")]
    schema["properties"]["task"]["enum"] = list(catalogue.tasks())
    schema["$defs"]["MeasureSpec"]["properties"]["metric"]["enum"] = ["auto", *catalogue.metrics()]
    schema["required"] = [k for k in schema["required"] if k not in ("stages", "data")]
    del schema["$defs"]["DataSpec"]["required"]  # stages and tasks may bring their own rows
    schema["oneOf"] = [{"required": ["stages"]}, {"required": ["methods"], **_WITH_ROWS}]
    for kind in ROOMS:
        schema.setdefault("$defs", {})[kind] = _use_schema(kind)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tunewright recipe",
        **{k: v for k, v in schema.items() if k != "title"},
    }
