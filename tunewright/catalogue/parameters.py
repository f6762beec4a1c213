"""A method's typed fields: made from a recipe, listed for a page, and turned into JSON Schema.

Nothing is said twice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tunewright.catalogue.annotations import bounds, inner_types, type_name
from tunewright.catalogue.numbers import parse_number
from tunewright.errors import MethodError, RecipeError, did_you_mean

if TYPE_CHECKING:
    from tunewright.contract.method import Method


class Use(Protocol):
    """A method as a recipe names it."""

    name: str
    params: dict[str, Any]

    @property
    def place(self) -> str | None: ...


def read_number(value: Any, field: FieldInfo) -> Any:
    """10% and 16k are numbers where the field takes a number and no text."""
    kinds = inner_types(field.annotation)
    if isinstance(value, str) and str not in kinds and (int in kinds or float in kinds):
        number = parse_number(value)
        beyond = number is not None and number > 1 and value.strip().endswith("%")  # no share: the field says so
        return value if number is None or beyond else number
    return value


def construct(cls: type[Method], use: Use, where: str) -> Method:
    """Make a method from its parameters. RecipeError says field, nearest name, allowed range and an example."""
    fields = {**cls.model_fields, **written_fields(cls)}
    fields |= {other: fields[name] for other, name in cls.also.items() if name in fields}
    values = {k: read_number(v, fields[k]) if k in fields else v for k, v in use.params.items()}
    try:
        return cls(**values)
    except ValidationError as error:
        said = dict.fromkeys(_describe(cls, use.name, item) for item in told(error.errors(include_url=False)))
        first, *others = said
        more = "".join(f"\n  also {what}; {remedy}" for what, remedy in others)
        raise RecipeError(first[0], where=where, remedy=first[1] + more) from None


def told(items: Sequence[Any]) -> list[Any]:
    """Of a validation's problems those that nothing else explains: items that are wrong are left out of their list,
    which is too short then.
    """
    places = [tuple(item["loc"]) for item in items]
    inside = {place[:k] for place in places for k in range(len(place))}
    return [i for i, place in zip(items, places, strict=True) if i["type"] != "too_short" or place not in inside]


def _describe(cls: type[Method], method: str, item: Any) -> tuple[str, str]:
    name = str(item["loc"][0]) if item["loc"] else ""
    fields = written_fields(cls)
    if item["type"] == "extra_forbidden":
        if not fields:
            return f"'{method}' has no parameter '{name}'", f"it has none: write {method}"
        known, colon, value = name.partition(":")
        if colon and known.strip() in fields:
            return f"'{method}' has no parameter '{name}'", f"write a space after the colon: {known.strip()}: {value}"
        return f"'{method}' has no parameter '{name}'", did_you_mean(name, fields)
    field = fields.get(name)
    if field is None:
        return (
            f"{method}: {item['msg'].removeprefix('Value error, ')}",
            f"`tunewright methods {method}` describes its parameters",
        )
    described = describe_field(field)
    allowed = f"allowed: {described['type']}" + (f", {described['range']}" if described["range"] else "")
    sample = field.examples[0] if field.examples else described["default"]
    write = f"; write {{{method}: {{{name}: {json.dumps(sample)}}}}}" if sample is not None else ""
    if item["type"] == "missing" and len(item["loc"]) > 1:
        given = item["input"]
        return f"{method}.{name}: an item is missing, got {given!r}", allowed + write
    if item["type"] == "missing":
        return f"'{method}' needs '{name}': {field.description}", allowed + write
    return f"{method}.{name}: {item['msg'].removeprefix('Value error, ')}, got {item['input']!r}", allowed + write


def written_fields(cls: type[BaseModel]) -> dict[str, FieldInfo]:
    """A class's fields by the names that a user writes: a field's alias where it has one."""
    return {field.alias or name: field for name, field in cls.model_fields.items()}


def describe_field(field: FieldInfo) -> dict[str, Any]:
    """{type, default, required, range, description} of one field, in JSON values; `notes` where it is marked with some.

    A mark is an object in the field's Annotated with an attribute `note`.
    """
    notes = [mark.note for mark in field.metadata if hasattr(mark, "note")]
    default = field.get_default(call_default_factory=True) if not field.is_required() else None
    return {
        "type": type_name(field.annotation),
        "default": None if default is PydanticUndefined else json.loads(json.dumps(default, default=str)),
        "required": field.is_required(),
        "range": bounds(field),
        "description": field.description or "",
        **({"notes": notes} if notes else {}),
    }


def parameters(cls: type[Method]) -> dict[str, dict[str, Any]]:
    """A method's parameters by name, in their order: type, default, range, description (with the unit)."""
    made = {name: describe_field(field) for name, field in written_fields(cls).items()}
    for other, name in cls.also.items():
        if name in made:  # a subclass may have taken the parameter away
            made[name].setdefault("notes", []).append(f"also read as `{other}`")
    return made


def needs_of(cls: type[Method]) -> list[str]:
    """Names of what a method with its defaults asks for from outside."""
    try:
        method = cls()
    except ValidationError:
        method = cls.model_construct()
    try:
        return sorted({need.name for need in method.needs()})
    except (AttributeError, TypeError, MethodError):
        # A method whose needs follow from a parameter that has no default cannot say before it is given.
        return []
