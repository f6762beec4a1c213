"""docs/json.md: what each verb prints with `--json`, made from the types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter

from tunewright.commands import json_types

_HEAD = """\
<!-- Made by `python -m tunewright.commands.docs` from tunewright/commands/json_types.py: change that, not this. -->
# What `--json` prints

With `--json` a verb prints one JSON document on standard output (`gate` one line, `chat` a line for each message) and
nothing else there; `run` and `resume` print a line for each logged step before theirs, unless `--quiet` is written;
messages and progress go to standard error, and the [exit code](exit-codes.md) says whether it was done. `tunewright
schema VERB` prints the JSON Schema of a verb's document, and `tunewright schema` that of recipes. Tests hold what
verbs print to these schemas. Fields may be added in later versions; those that are here keep their meaning.
"""


def json_page() -> str:
    """The page: a table of fields for each verb, and of the types that it holds."""
    parts = [_HEAD]
    for verb in json_types.TYPES:
        said = []
        for kind in json_types.kinds_of(verb):
            schema = TypeAdapter(kind).json_schema(mode="serialization")
            elsewhere = {"Report": "[the report](report.md)."}.get(str(schema.get("title")))
            said.append(elsewhere or _described(schema))
        parts.append(f"## {verb}\n\n" + "\n\nOr, of a recipe that lists adapters: ".join(said) + "\n")
    for verb, why in json_types.WITHOUT.items():
        parts.append(f"`{verb}` has no `--json`: it {why}.\n")
    return "\n".join(parts)


def _described(schema: Mapping[str, Any]) -> str:
    said = " ".join(str(schema.get("description", "")).split())
    said = said if schema.get("description") else f"{_type(schema)}."
    lines = [said[:1].upper() + said[1:]]
    shown = list(_shown(schema, schema.get("$defs", {})))
    for name, one in shown:
        about = " ".join(str(one.get("description", "")).split())
        lines += [
            "",
            *([f"*{name}*: {about}" if about and about != said else f"*{name}*", ""] if len(shown) > 1 else []),
        ]
        lines += ["| field | type | |", "| --- | --- | --- |"]
        for field, of in one["properties"].items():
            lines.append(f"| `{field}` | {_type(of)} | {' '.join(str(of.get('description', '')).split())} |")
    return "\n".join(lines)


def _shown(schema: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The types of a document that have fields: itself, then those that it holds, in order of their names."""
    if "properties" in schema:
        yield str(schema.get("title", "")), schema
    for name, one in known.items():
        if "properties" in one:
            yield name, one


def _type(of: Mapping[str, Any]) -> str:
    """A field's type in words."""
    if "$ref" in of:
        return str(of["$ref"]).rpartition("/")[2]
    if "anyOf" in of or "oneOf" in of:
        return " or ".join(_type(one) for one in of.get("anyOf") or of["oneOf"])
    if "enum" in of:
        return ", ".join(str(v) for v in of["enum"])
    if "const" in of:
        return str(of["const"])
    if of.get("type") == "array":
        if "prefixItems" in of:
            return f"list of {len(of['prefixItems'])}: " + ", ".join(_type(one) for one in of["prefixItems"])
        return f"list of {_type(of['items'])}" if of.get("items") else "list"
    if of.get("type") == "object":
        inner = of.get("additionalProperties")
        return f"object of {_type(inner)}" if isinstance(inner, dict) else "object"
    return str(of.get("type", "any value"))
