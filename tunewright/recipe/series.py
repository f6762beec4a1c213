"""How time series become windows, and what a recipe of forecasts leaves out: that its sources hold series, and which
part of each they mean.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tunewright.recipe.fields import Real, Spec, Whole, problem
from tunewright.recipe.source import Source
from tunewright.tasks._parts import FORECASTING, ROLLING, SERIES, TEST, TRAIN


class SeriesSpec(Spec):
    """How time series become windows (task: time-series-forecasting). Their lengths are the model's."""

    channels: list[str] | None = Field(
        None,
        min_length=1,
        description="columns to read and to forecast, in the model's order; none: all that hold numbers",
        examples=[["HUFL", "OT"]],
    )
    stride: Whole = Field(1, gt=0, description="steps from one training window to the next", examples=[8])
    test: Real = Field(
        0.2,
        gt=0,
        lt=1,
        description="share of each series' steps, its last ones, that is held out and measured on where `data.eval` "
        "names nothing",
        examples=["20%"],
    )
    backtests: Whole | None = Field(
        None,
        gt=0,
        description="windows of each series to measure on, its last ones, one behind the other; none: as many as `test`"
        " holds",
        examples=[3],
    )
    season: Whole | None = Field(
        None,
        gt=0,
        description="steps of a season, for MASE and the seasonal forecast; none: by the time between steps (24 hours, "
        "12 months ...)",
        examples=[24],
    )


def as_series(source: Source, split: str | None) -> Source:
    """A source read as series; `split`: the part that it means where it says none."""
    source = source.model_copy()
    source.format = source.format or SERIES
    source.split = source.split if source.split is not None else split
    return source


def of_recipe(recipe: Any) -> None:
    """Write into a recipe of forecasts what it leaves out. An error of pydantic's for `data.series` of another task."""
    parts = [(("data",), recipe.data), *((("stages", i, "data"), s.data) for i, s in enumerate(recipe.stages))]
    if recipe.task != FORECASTING:
        for place, data in parts:
            if data is not None and data.series is not None:
                remedy = f"remove series, or write task: {FORECASTING}"
                raise problem(f"the task {recipe.task} reads no time series", remedy, (*place, "series"))
        return
    held_out = recipe.data.eval is None
    if held_out:
        ends = [source.model_copy(update={"split": TEST}) for source in recipe.data.train]
        recipe.data.eval = [as_series(source, TEST) for source in ends]
    for _, data in parts:
        given = data.model_fields_set if data is not None else set()
        if "train" in given:
            data.train = [as_series(source, TRAIN if held_out else None) for source in data.train]
        for name in ("eval", "validation"):
            if name in given and isinstance(getattr(data, name), list):
                setattr(data, name, [as_series(source, ROLLING) for source in getattr(data, name)])
    if recipe.data.series is None:
        recipe.data.series = SeriesSpec()
    if recipe.train.precision == "auto":
        recipe.train.precision = "float32"  # the values of a series have more digits than bfloat16
