"""What the numbers of boxes mean, of a recipe whose pictures show things at places."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunewright.recipe.fields import Spec


class BoxSpec(Spec):
    """What the numbers of boxes mean. Files of COCO and YOLO say it themselves."""

    format: Literal["coco", "pascal_voc", "albumentations", "yolo"] = Field(
        "coco",
        description="the four numbers of a box: x, y, width, height in pixels (coco), left, top, right, bottom in "
        "pixels (pascal_voc) or in shares of the picture (albumentations), or its middle, width and height in shares "
        "(yolo)",
        examples=["pascal_voc"],
    )
    clip: bool = Field(
        False,
        description="boxes that reach out of their picture are cut at its edge; false: by more than a pixel, they are "
        "rows that cannot be used",
        examples=[True],
    )
