"""One stage of a recipe, and what of the recipe's other parts it may have otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, create_model, model_serializer

from tunewright.recipe.data_spec import DataSpec
from tunewright.recipe.fields import Spec, Whole
from tunewright.recipe.models import Place
from tunewright.recipe.train_spec import Budget, TrainSpec
from tunewright.recipe.uses import Uses

LONGEST_NAME = 200
"""Letters of a name that is a folder's: a disk takes 255, and a number or a process is written behind it at times."""


class _Override(Spec):
    """Some fields of a part, over what the recipe says for all stages; only those given are written."""

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> Any:
        out = handler(self)
        return {k: v for k, v in out.items() if k in self.model_fields_set}


if TYPE_CHECKING:
    TrainOverride = TrainSpec
    DataOverride = DataSpec
else:

    def _override(name: str, spec: type[Spec]) -> type[Spec]:
        fields = {}
        for field, info in spec.model_fields.items():
            given = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
            fields[field] = (given | None, Field(None, description=info.description, examples=info.examples))
        return create_model(
            name,
            __base__=(_Override, spec),
            __module__=__name__,
            __doc__=f"{spec.__doc__} Of one stage; what is not given is as for all.",
            **fields,
        )

    TrainOverride = _override("TrainOverride", TrainSpec)
    DataOverride = _override("DataOverride", DataSpec)


class StageSpec(Spec):
    """One round of training: from what, with which methods, for how long."""

    compact: ClassVar[bool] = True
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$",
        max_length=LONGEST_NAME,
        description="letters, digits, - and _; left out beside `each`, which names its stages by their files or items",
        examples=["task"],
    )
    each: list[Any] | dict[str, Any] | None = Field(
        None,
        description="a sequence of tasks: files, or keys of `data` with a `name`; the entry becomes a stage for each; "
        "or {of: [...], start: base}: each from there",
        examples=[["first.jsonl", "second.jsonl"]],
    )
    rounds: int | dict[str, Any] | None = Field(
        None,
        description="the entry becomes so many stages, NAME-1, NAME-2 ..., each from where the one before ended; or "
        "{times: 3, start: base}: each from there",
        examples=[3],
    )
    round: Whole | None = Field(
        None, gt=0, description="written by `rounds`: which of its rounds the stage is, from 1", examples=[1]
    )
    start: Annotated[str, Place] | None = Field(
        None,
        description="base, stages.<an earlier one's name>, or a folder; none: the stage before, or base",
        examples=["stages.domain"],
    )
    carry: Literal["fold", "frozen", "training", "drop"] = Field(
        "fold", description="what becomes of the deltas it starts with", examples=["fold"]
    )
    data: DataOverride | None = Field(
        None, description="keys of `data` that differ in this stage", examples=[{"train": "tickets.jsonl"}]
    )
    methods: Annotated[Uses, Field(min_length=1)] = Field(description="what is applied, in order", examples=[["lora"]])
    budget: Budget = Field(default_factory=Budget, description="when the stage ends", examples=[{"tokens": "1M"}])
    train: TrainOverride | None = Field(
        None, description="keys of `train` that differ in this stage", examples=[{"learning_rate": 1e-4}]
    )
