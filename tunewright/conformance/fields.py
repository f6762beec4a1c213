"""Other values of a method's fields, found from the fields' own types, bounds and examples."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError

from tunewright.contract.method import Method


def parts(annotation: Any) -> list[Any]:
    """The plain types that an annotation is made of: int | None -> [int, NoneType]; Literal stays whole."""
    if get_origin(annotation) in (Union, UnionType):
        return [p for a in get_args(annotation) for p in parts(a)]
    if get_origin(annotation) is Annotated:
        return parts(get_args(annotation)[0])
    return [annotation]


def guesses(annotation: Any, value: Any) -> Iterator[Any]:
    """Values unlike `value` that the type suggests."""
    for kind in parts(annotation):
        if get_origin(kind) is Literal:
            yield from get_args(kind)
        elif kind is bool:
            yield not value
        elif kind is int:
            yield from (1, 2) if not isinstance(value, int) else (value + 1, 2 * value, value // 2, value - 1)
        elif kind is float:
            yield from (0.5, 1.0) if not isinstance(value, int | float) else (2 * value, value / 2, value + 0.25)
        elif kind is NoneType:
            yield None


def other_values(method: Method, field: str) -> list[Method]:
    """Copies of a method with another valid value of one field: the field's examples first, then its type's guesses."""
    info, value = type(method).model_fields[field], getattr(method, field)
    others: list[Method] = []
    for candidate in [*(info.examples or ()), *guesses(info.annotation, value)]:
        try:
            changed = type(method)(**{**{n: getattr(method, n) for n in type(method).model_fields}, field: candidate})
        except ValidationError:
            continue
        if getattr(changed, field) != value and changed not in others:
            others.append(changed)
    return others
