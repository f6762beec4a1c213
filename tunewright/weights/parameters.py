"""What a merge declares: its parameters as typed fields, and which models it takes. No torch is needed to read it.

Flags, files in mergekit's form, checks, defaults and pages follow from a class's fields. What a field cannot say by its
type, range and description, its annotation says:

    weight: PerModel[float] = Field(1.0, description="w_t, a model's weight")
    density: Annotated[PerModel[float], MergekitDefault(1.0)] = Field(0.2, ge=0, le=1, description="share that stays")
    lambda_: float = Field(1.0, alias="lambda", description="factor of the merged change")

A parameter is written under its field's alias where it has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunewright.catalogue.annotations import inner_types
from tunewright.catalogue.parameters import describe_field, read_number
from tunewright.errors import MethodError, RecipeError, did_you_mean


@dataclass(frozen=True)
class OwnOfEachModel:
    """Marks a field that may differ from model to model: a merge reads it from `each`, never from itself."""

    note: ClassVar[str] = "each model may have its own"


T = TypeVar("T")
F = TypeVar("F", bound="MergeFields")
PerModel = Annotated[T, OwnOfEachModel()]


@dataclass(frozen=True)
class MergekitDefault:
    """Marks what a file in mergekit's form means by a parameter that it leaves out, where that is not the default."""

    value: Any

    @property
    def note(self) -> str:
        return f"{self.value} where a file in mergekit's form leaves it out"


class MergeFields(BaseModel):
    """Base of what merges declare, as fields and class attributes.

    - `base`: "needed" (it works on changes from a common base), "none" (a base among the models is a model like any
      other) or "optional".
    - `symmetric`: the order of the models does not matter (to rounding).
    - `models`: (least, most) number of models beside the base; None: no limit.
    - `per_model`: names of the fields that are marked `PerModel`.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True, allow_inf_nan=False
    )

    of: tuple[str, ...] = Field(
        (), description="models beside the run's own: stages.<name>, or folders of runs", examples=[["stages.first"]]
    )

    base: ClassVar[Literal["needed", "none", "optional"]] = "optional"
    symmetric: ClassVar[bool] = False
    models: ClassVar[tuple[int, int | None]] = (1, None)
    per_model: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "per_model" in vars(cls):
            raise MethodError(
                f"{cls.__name__} lists its models' own parameters beside its fields",
                remedy="mark the fields: weight: PerModel[float] = Field(1.0, description='...')",
            )
        cls.per_model = tuple(n for n in cls.model_fields if _marked(cls, n, OwnOfEachModel))


def _marked(cls: type[MergeFields], field: str, kind: type[T]) -> T | None:
    return next((m for m in cls.model_fields[field].metadata if isinstance(m, kind)), None)


def written(cls: type[MergeFields]) -> dict[str, str]:
    """The parameters of a merge of folders: name as a user writes it -> field. (`of` is a recipe's.)"""
    return {info.alias or n: n for n, info in cls.model_fields.items() if n != "of"}


def defaults(cls: type[MergeFields]) -> dict[str, Any]:
    """Field -> default, without what has none."""
    return {
        n: info.get_default(call_default_factory=True)
        for n, info in cls.model_fields.items()
        if n != "of" and not info.is_required()
    }


def mergekit_defaults(cls: type[MergeFields]) -> dict[str, Any]:
    """Field -> what a file in mergekit's form means by leaving it out, where that is not the field's default."""
    marks = {n: _marked(cls, n, MergekitDefault) for n in cls.model_fields}
    return {n: mark.value for n, mark in marks.items() if mark is not None}


def is_list(cls: type[MergeFields], field: str) -> bool:
    """Whether a field's own value is a list, so that a list for it is no gradient over layers."""
    annotation = cls.model_fields[field].annotation
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return any(get_origin(kind) in (list, tuple) for kind in kinds)


def field_of(cls: type[MergeFields], method: str, name: str, where: str) -> str:
    """The field of a parameter as a user writes it. RecipeError with the nearest name where there is none."""
    known = written(cls)
    if name not in known:
        raise RecipeError(f"'{method}' has no parameter '{name}'", where=where, remedy=did_you_mean(name, known))
    return known[name]


def built(cls: type[F], method: str, values: Mapping[str, Any], where: str) -> F:
    """An object with these values by field: 10% is 0.1.

    RecipeError says the parameter, what it got, its type and range, and its default.
    """
    read = {n: read_number(v, cls.model_fields[n]) for n, v in values.items()}
    for n, v in read.items():
        kinds = inner_types(cls.model_fields[n].annotation)
        if isinstance(v, bool) and bool not in kinds and (int in kinds or float in kinds):
            raise _refused(cls, method, n, "Input should be a number", v, where)
    try:
        return cls(**read)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        says = item["msg"].removeprefix("Value error, ")
        if not item["loc"]:
            raise RecipeError(
                f"{method}: {says}", where=where, remedy=f"`tunewright methods {method}` describes its parameters"
            ) from None
        name = str(item["loc"][0])
        field = written(cls).get(name, name)
        if item["type"] == "missing":
            raise _missing(cls, method, field, where) from None
        raise _refused(cls, method, field, says, item["input"], where) from None


def checked(cls: type[MergeFields], method: str, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values by field as the class takes them, beside its defaults. Raises what `built` raises."""
    instance = built(cls, method, values, where)
    return {n: getattr(instance, n) for n in values}


def _refused(cls: type[MergeFields], method: str, field: str, says: str, value: Any, where: str) -> RecipeError:
    info = cls.model_fields[field]
    name = info.alias or field
    return RecipeError(f"{method}.{name}: {says}, got {value!r}", where=f"{where}: {name}", remedy=_allowed(cls, field))


def _missing(cls: type[MergeFields], method: str, field: str, where: str) -> RecipeError:
    info = cls.model_fields[field]
    return RecipeError(
        f"'{method}' needs '{info.alias or field}': {info.description}", where=where, remedy=_allowed(cls, field)
    )


def _allowed(cls: type[MergeFields], field: str) -> str:
    description = describe_field(cls.model_fields[field])
    default = "" if description["required"] else f"; its default is {description['default']}"
    return f"allowed: {description['type']}" + (f", {description['range']}" if description["range"] else "") + default


def check_count(cls: Any, name: str, count: int, base: bool, where: str | None = None) -> None:
    """MethodError where a merge cannot take so many models, or lacks its base."""
    least, most = cls.models
    if count < least or (most is not None and count > most):
        wanted = f"exactly {least}" if least == most else f"at least {least}" if most is None else f"{least} to {most}"
        beside = " beside its base" if cls.base == "needed" else ""
        raise MethodError(
            f"'{name}' takes {wanted} models{beside}, and got {count}",
            where=where,
            remedy="name more models" if count < least else "name fewer models",
        )
    if cls.base == "needed" and not base:
        raise MethodError(
            f"'{name}' works on changes from a common base, and none is given",
            where=where,
            remedy="name the models' base: --base FOLDER",
        )
