"""A method's typed fields: made from a recipe, listed for a page, and turned into JSON Schema. Nothing is said twice."""

from __future__ import annotations

import json
import types
import typing
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tunewright.errors import MethodError, RecipeError, did_you_mean
from tunewright.recipe.explain import inner_types
from tunewright.recipe.fields import parse_number

if TYPE_CHECKING:
    from tunewright.method import Method
    from tunewright.recipe.uses import MethodUse

_UNITS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length")


def _read_number(value: Any, field: FieldInfo) -> Any:
    """10% and 16k are numbers where the field takes a number and no text."""
    kinds = inner_types(field.annotation)
    if isinstance(value, str) and str not in kinds and (int in kinds or float in kinds):
        number = parse_number(value)
        return value if number is None else number
    return value


def construct(cls: type[Method], use: MethodUse, where: str) -> Method:
    """Make a method from its parameters. RecipeError says field, nearest name, allowed range and an example."""
    values = {k: _read_number(v, cls.model_fields[k]) if k in cls.model_fields else v for k, v in use.params.items()}
    try:
        return cls(**values)
    except ValidationError as error:
        first, *others = [_describe(cls, use.name, item) for item in error.errors(include_url=False)]
        more = "".join(f"\n  also {what}; {remedy}" for what, remedy in others)
        raise RecipeError(first[0], where=where, remedy=first[1] + more) from None


def _describe(cls: type[Method], method: str, item: Any) -> tuple[str, str]:
    name = str(item["loc"][0]) if item["loc"] else ""
    if item["type"] == "extra_forbidden":
        if not cls.model_fields:
            return f"'{method}' has no parameter '{name}'", f"it has none: write {method}"
        return f"'{method}' has no parameter '{name}'", did_you_mean(name, cls.model_fields)
    field = cls.model_fields.get(name)
    if field is None:
        return f"{method}: {item['msg'].removeprefix('Value error, ')}", f"`tunewright methods {method}` describes its parameters"
    described = describe_field(field)
    allowed = f"allowed: {described['type']}" + (f", {described['range']}" if described["range"] else "")
    sample = field.examples[0] if field.examples else described["default"]
    write = f"; write {{{method}: {{{name}: {json.dumps(sample)}}}}}" if sample is not None else ""
    if item["type"] == "missing":
        return f"'{method}' needs '{name}': {field.description}", allowed + write
    return f"{method}.{name}: {item['msg'].removeprefix('Value error, ')}, got {item['input']!r}", allowed + write


def _pieces(annotation: Any) -> list[Any]:
    """What constrains a value itself: the metadata of Annotated, through Optional and unions (not inside lists and dicts)."""
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return [*_pieces(arguments[0]), *arguments[1:]]
    return [p for a in arguments for p in _pieces(a)] if origin in (typing.Union, types.UnionType) else []


def bounds(field: FieldInfo) -> str:
    """The allowed range of a field: "> 0, <= 1"."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    found = []
    for piece in [*field.metadata, *_pieces(field.annotation)]:
        for name in _UNITS:
            bound = getattr(piece, name, None)
            if bound is not None:
                found.append(f"{signs[name]} {bound:g}" if name in signs else f"{name.replace('_', ' ')} {bound}")
    return ", ".join(dict.fromkeys(found))


def type_name(annotation: Any) -> str:
    """A type as a reader would write it: int | None, list[str], 'add' | 'multiply'."""
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if annotation is type(None):
        return "none"
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_name(a) for a in arguments)
    if origin is typing.Literal:
        return " | ".join(repr(a) for a in arguments)
    if origin is not None:
        return f"{origin.__name__}[{', '.join('...' if a is Ellipsis else type_name(a) for a in arguments)}]"
    return {"str": "text"}.get(annotation.__name__, annotation.__name__) if isinstance(annotation, type) else str(annotation)


def describe_field(field: FieldInfo) -> dict[str, Any]:
    """{type, default, required, range, description} of one field, in JSON values."""
    default = field.get_default(call_default_factory=True) if not field.is_required() else None
    return {
        "type": type_name(field.annotation),
        "default": None if default is PydanticUndefined else json.loads(json.dumps(default, default=str)),
        "required": field.is_required(),
        "range": bounds(field),
        "description": field.description or "",
    }


def parameters(cls: type[Method]) -> dict[str, dict[str, Any]]:
    """A method's parameters by name, in their order: type, default, range, description (with the unit)."""
    return {name: describe_field(field) for name, field in cls.model_fields.items()}


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
