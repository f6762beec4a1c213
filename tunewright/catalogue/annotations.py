"""What a type annotation says: the types inside it, the range it allows, and how a reader would write it."""

from __future__ import annotations

import types
import typing
from typing import Any

from pydantic.fields import FieldInfo

_UNITS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length")


def inner_types(annotation: Any) -> list[Any]:
    """The types inside Optional, Annotated, list and dict: list[Source] | None -> [Source]."""
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return inner_types(arguments[0])
    if origin in (typing.Union, types.UnionType, list, tuple):
        return [t for a in arguments if a is not type(None) for t in inner_types(a)]
    if origin is dict:
        return inner_types(arguments[1])
    return [annotation]


def _pieces(annotation: Any) -> list[Any]:
    """What constrains a value itself: the metadata of Annotated, through Optional and unions (not inside lists and
    dicts).
    """
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return [*_pieces(arguments[0]), *arguments[1:]]
    return [p for a in arguments for p in _pieces(a)] if origin in (typing.Union, types.UnionType) else []


def bounds(field: FieldInfo) -> str:
    """The allowed range of a field: "> 0, <= 1"."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    limits = []
    for piece in [*field.metadata, *_pieces(field.annotation)]:
        for name in _UNITS:
            bound = getattr(piece, name, None)
            if bound is not None:
                limits.append(f"{signs[name]} {bound:g}" if name in signs else f"{name.replace('_', ' ')} {bound}")
    return ", ".join(dict.fromkeys(limits))


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
    return (
        {"str": "text"}.get(annotation.__name__, annotation.__name__)
        if isinstance(annotation, type)
        else str(annotation)
    )
