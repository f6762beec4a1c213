"""How far changed views of a picture may lie from it, of a recipe whose pictures are learnt without labels."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from tunewright.recipe.fields import Real, Spec, problem
from tunewright.tasks._parts import VIEWS

_OWN: Any = VIEWS
Share = Annotated[Real, Field(gt=0, le=1)]


class ViewSpec(Spec):
    """How a picture is changed into each of its views: what is learnt is what the changes leave as it is."""

    area: tuple[Share, Share] = Field(
        _OWN["area"],
        description="least and largest share of the picture's area that a view shows, enlarged to the whole",
        examples=[(0.08, 1.0)],
    )
    mirror: bool = Field(
        _OWN["mirror"],
        description="half of the views are mirrored; false where left and right mean something, as of digits",
        examples=[False],
    )
    turn: Real = Field(_OWN["turn"], ge=0, le=180, description="turned by up to so many degrees", examples=[15])
    light: Real = Field(
        _OWN["light"], ge=0, lt=1, description="brightness and contrast change by up to this share", examples=[0.8]
    )
    colour: Real = Field(
        _OWN["colour"], ge=0, lt=1, description="strength of colours changes by up to this share", examples=[0.8]
    )
    grey: Real = Field(_OWN["grey"], ge=0, le=1, description="share of the views without colours", examples=[0])

    @model_validator(mode="after")
    def _least_before_largest(self) -> ViewSpec:
        if self.area[0] > self.area[1]:
            what = f"the least area {self.area[0]:g} is above the largest, {self.area[1]:g}"
            raise problem(what, f"write area: [{self.area[1]:g}, {self.area[0]:g}]", ("area",))
        return self
