"""One quantity before and after, as `report.json` holds it wherever something is compared."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunewright.measure.intervals import Interval
from tunewright.report.saved import Part


class Measured(Part):
    """One quantity before and after, on the same rows with the same code."""

    name: str | None = Field(None, description="what it was measured on or how, e.g. 'general' or 'likelihood choice'")
    metric: str = Field(description="the metric's usual name: exact_match, accuracy, loss ...")
    direction: Literal["higher", "lower"] = Field("higher", description="which way is better")
    unit: str = Field(
        "fraction", description=("'fraction' (shown as per cent), 'nats per token' or another unit in words")
    )
    before: Interval | None = Field(None, description="the untouched base")
    after: Interval | None = Field(None, description="the tuned model at full strength")
    difference: Interval | None = Field(None, description="after minus before, paired by row or document")
    n: int | None = Field(None, ge=0, description="rows or documents measured")
