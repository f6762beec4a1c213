"""What merges declare that a kernel serves, readable without torch for planning; their classes derive from these."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tunewright.weights.parameters import MergeFields, MergekitDefault, PerModel


class LinearFields(MergeFields):
    """Of a weighted mean of models."""

    weight: PerModel[float] = Field(1.0, description="w_t, a model's weight", examples=[0.5])
    normalize: bool = Field(True, description="divide by the sum of the weights")

    base: ClassVar[Literal["needed", "none", "optional"]] = "none"
    symmetric: ClassVar[bool] = True


class SlerpFields(MergeFields):
    """Of an interpolation along the arc between two models."""

    t: float = Field(0.5, ge=0, le=1, description="place on the arc: 0 the first model, 1 the second", examples=[0.25])

    base: ClassVar[Literal["needed", "none", "optional"]] = "none"
    models: ClassVar[tuple[int, int | None]] = (2, 2)


class TaskVectorFields(MergeFields):
    """Of a merge of task vectors. `election`: entries count only where they have the elected sign."""

    weight: PerModel[float] = Field(1.0, description="w_t, weight of a model's change", examples=[0.5])
    normalize: bool = Field(False, description="divide by the sum of the weights that take part in an entry")
    lambda_: float = Field(1.0, alias="lambda", description="factor of the merged change", examples=[0.5])

    base: ClassVar[Literal["needed", "none", "optional"]] = "needed"
    symmetric: ClassVar[bool] = True
    election: ClassVar[bool] = False


class TiesFields(TaskVectorFields):
    """Of a merge that trims small entries and elects signs."""

    normalize: bool = Field(True, description="a mean of the values that agree; off: their sum")
    density: Annotated[PerModel[float], MergekitDefault(1.0)] = Field(
        0.2, ge=0, le=1, description="share of a change's entries that stays"
    )
    over: Literal["tensor", "model"] = Field(
        "tensor", description="what the density is a share of: each tensor, or all of a model's entries together"
    )
    rescale: bool = Field(False, description="scale a trimmed change to the sum of magnitudes that it had")

    election: ClassVar[bool] = True


class BreadcrumbsFields(TaskVectorFields):
    """Of a merge that masks both tails of the magnitudes."""

    density: Annotated[PerModel[float], MergekitDefault(1.0)] = Field(
        0.15, ge=0, le=1, description="share of a change's entries that stays (the paper's beta)", examples=[0.5]
    )
    gamma: PerModel[float] = Field(
        0.01, ge=0, le=1, description="share of a change's largest entries that is dropped", examples=[0.2]
    )
    over: Literal["tensor", "row"] = Field(
        "tensor", description="what the shares are counted in: each tensor, or each row of it"
    )
    rescale: bool = Field(False, description="scale a masked change to the sum of magnitudes that it had")


class ModelBreadcrumbsFields(BreadcrumbsFields):
    """With the defaults of the authors' code."""

    lambda_: Annotated[float, MergekitDefault(1.0)] = Field(
        0.2, alias="lambda", description="factor of the merged change", examples=[0.5]
    )
    gamma: Annotated[PerModel[float], MergekitDefault(0.01)] = Field(
        0.006, ge=0, le=1, description="share of a change's largest entries that is dropped", examples=[0.2]
    )


class BreadcrumbsTiesFields(BreadcrumbsFields):
    """With an election of signs."""

    election: ClassVar[bool] = True
