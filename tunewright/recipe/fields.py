"""Pieces of a recipe's types: numbers as people write them (16k, 2M, 10%), and mappings that may be written as one
word.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from tunewright.catalogue.numbers import SCALED, parse_number


def _number(value: Any) -> Any:
    """Turn number-like text into a number; anything else is left to the type's own check. True is no number."""
    if isinstance(value, bool):
        raise PydanticCustomError("not_a_number", "must be a number")
    if isinstance(value, str):
        number = parse_number(value)
        return value if number is None else number
    return value


def _whole(value: Any) -> Any:
    number = _number(value)
    if isinstance(number, float) and number == number and abs(number) < 2**63 and number == int(number):
        return int(number)
    return number


_Text = Annotated[str, Field(pattern=SCALED.pattern)]

Whole = Annotated[int, BeforeValidator(_whole, json_schema_input_type=int | _Text)]
"""An int; 16k, 2M and 1e6 are accepted (k is a thousand)."""

Real = Annotated[float, BeforeValidator(_number, json_schema_input_type=float | _Text), Field(allow_inf_nan=False)]
"""A finite float; 2e-4, 10% and 2M are accepted."""

StepsOrShare = Annotated[int | float, BeforeValidator(_number, json_schema_input_type=int | float | _Text)]
"""An int (a number of steps) or a share of all steps below 1 (0.03, 3%)."""


class Spec(BaseModel):
    """A part of a recipe. Unknown keys are errors.

    `shorthand`: the field that a plain string fills ("model: x" is "model: {name: x}"). `also`: other names of a
    field that users bring from other tools. `compact`: whether keys without a value are left out when written.
    """

    model_config = ConfigDict(extra="forbid", validate_default=False, revalidate_instances="never")

    shorthand: ClassVar[str | None] = None
    also: ClassVar[dict[str, str]] = {}
    compact: ClassVar[bool] = False

    def __eq__(self, other: object) -> bool:
        # Private attributes (places in a file) do not make two specs different.
        return type(self) is type(other) and self.__dict__ == other.__dict__

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> Any:
        out = handler(self)
        return {k: v for k, v in out.items() if v is not None} if self.compact else out

    @model_validator(mode="before")
    @classmethod
    def _accept_short_forms(cls, value: Any) -> Any:
        short = cls.shorthand
        if short is not None and isinstance(value, str):
            return {short: value}
        if isinstance(value, dict) and cls.also.keys() & value.keys():
            out: dict[str, Any] = {}
            for key, item in value.items():
                name: str = cls.also[key] if key in cls.also else key
                if name in out:
                    raise PydanticCustomError(
                        "written_twice", "'{name}' and '{key}' mean the same: keep one", {"name": name, "key": key}
                    )
                out[name] = item
            return out
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        out = handler.resolve_ref_schema(handler(schema))
        for other, name in cls.also.items():
            out["properties"][other] = {**out["properties"][name], "description": f"Another name of {name}."}
        return {"anyOf": [{"type": "string"}, out]} if cls.shorthand else out


def problem(what: str, remedy: str, path: tuple[str | int, ...] = ()) -> PydanticCustomError:
    """An error for a validator to raise: `path` leads from the validated part to the field that is wrong."""
    return PydanticCustomError("recipe", "{what}", {"what": what, "remedy": remedy, "path": path})


def as_list(value: Any) -> Any:
    """One thing or a list of them -> a list."""
    return value if isinstance(value, list | tuple) or value is None else [value]
