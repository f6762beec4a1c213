"""A method named in a recipe, with its parameters."""

from __future__ import annotations

from typing import Annotated, Any

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from tunewright.errors import RecipeError
from tunewright.recipe.fields import Spec, as_list, problem


class MethodUse(Spec):
    """A method by name, with parameters: `lora`, or `{lora: {rank: 16}}`."""

    name: str = Field(
        min_length=1, description="the method's name, as `tunewright methods` lists it", examples=["lora"]
    )
    params: dict[str, JsonValue] = Field(
        default_factory=dict, description="the method's own parameters", examples=[{"rank": 16}]
    )
    _place: str | None = PrivateAttr(None)

    @property
    def place(self) -> str | None:
        """The file:line (or flag) this use was written at; None when it was made in Python."""
        return self._place

    @property
    def line(self) -> int | None:
        """The line in the recipe's file; None when it was made in Python or by a flag."""
        end = (self._place or "").rsplit(":", 1)[-1]
        return int(end) if end.isdigit() else None

    @model_validator(mode="before")
    @classmethod
    def _accept_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict) or ("name" in value and value.keys() <= {"name", "params"}):
            return value
        if len(value) != 1:
            first = next(iter(value), "lora")
            raise problem(
                f"one method is expected here, got the keys {', '.join(map(str, value)) or '(none)'}",
                (
                    f"indent parameters one level deeper, as in {{{first}: {{rank: 16}}}}, and write one list "
                    "item per method"
                ),
            )
        name, params = next(iter(value.items()))
        if params is not None and not isinstance(params, dict):
            raise problem(
                f"the parameters of '{name}' must be a mapping, got {params!r}",
                f"write {{{name}: {{parameter: value}}}}",
                (name,),
            )
        return {"name": name, "params": params or {}}

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> Any:
        out = handler(self)
        return {out["name"]: out["params"]} if out["params"] else out["name"]

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "title": "Method",
            "description": cls.__doc__,
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "minProperties": 1,
                    "maxProperties": 1,
                    "additionalProperties": {"type": ["object", "null"]},
                },
            ],
        }


def use_of(text: str, where: str) -> MethodUse:
    """A method as a command line names it: `lora`, `lora:rank=4:alpha=8`. RecipeError for what is no parameter."""
    name, *given = text.split(":")
    params = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not equals:
            raise RecipeError(f"'{pair}' is no parameter", where=where, remedy=f"write {name}:parameter=value")
        params[key] = yaml.safe_load(value)
    use = MethodUse(name=name, params=params)
    use._place = where
    return use


Uses = Annotated[list[MethodUse], BeforeValidator(as_list)]
"""Methods in order; one may stand alone."""
