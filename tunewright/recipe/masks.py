"""What the numbers or colours of masks mean, of a recipe whose pictures have a class a pixel."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from tunewright.recipe.fields import Real, Spec, Whole, problem


class MaskSpec(Spec):
    """What the numbers of masks mean."""

    ignore: Whole | None = Field(
        255, ge=0, description="the number of a pixel that does not count; null: all count", examples=[255]
    )
    reduce_labels: bool | None = Field(
        None, description="0 is no class and 1 the first one, as in ADE20K; none: 0 is the first", examples=[True]
    )
    classes: dict[str, str | None] = Field(
        default_factory=dict,
        description="a number or a colour of masks -> its class, null where it does not count",
        examples=[{"0": "ground", "255": "road"}, {"#000000": None, "#804080": "road"}],
    )
    weights: dict[str, Annotated[Real, Field(gt=0)]] = Field(
        default_factory=dict,
        description="how much a class's pixels count in the loss; 1 for those that are not named",
        examples=[{"road": 5.0}],
    )

    @field_validator("classes", mode="before")
    @classmethod
    def _keys_as_text(cls, value: Any) -> Any:
        return {str(k): v for k, v in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _classes_are_of_one_kind(self) -> MaskSpec:
        wrong = next((k for k in self.classes if not re.fullmatch(r"#[0-9a-fA-F]{6}|[0-9]+", k)), None)
        if wrong is not None or len({k.startswith("#") for k in self.classes}) > 1:
            said = f"'{wrong}' is neither" if wrong is not None else "there are both"
            what = f"a mask has whole numbers or colours, and {said}"
            raise problem(what, 'write {0: ground, 255: road} or {"#000000": ground, "#804080": road}', ("classes",))
        if self.classes and self.reduce_labels is not None:
            raise problem("classes says what 0 is", "leave reduce_labels out", ("reduce_labels",))
        return self
