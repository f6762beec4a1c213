"""A stream that the tuned model answered in order, without adaptation and while a method adapted it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tunewright.report.measured import Measured
from tunewright.report.saved import Part


class StreamPoint(Part):
    """One stretch of the stream, of rows next to each other."""

    rows: int = Field(ge=0, description="rows of the stream up to its end")
    without: float = Field(description="the metric on it without adaptation")
    online: float = Field(description="the metric on it, each row answered when it came")


class Restored(Part):
    """A time that the guard put the tuned weights back."""

    batch: int = Field(ge=0, description="batch of the stream, from 0")
    why: str = Field(description="what was seen")


class Adaptation(Measured):
    """One method on the stream: `before` is the tuned model without adaptation, `after` the answers given online.

    Each row was answered once, when it came, before anything was learnt from later ones; no label was seen.
    """

    method: str = Field(description="its name in the recipe; the second of one name is name-2")
    parameters: dict[str, Any] = Field(default_factory=dict, description="parameter -> value, defaults included")
    papers: list[str] = Field(default_factory=list, description="papers that it comes from")
    sources: list[Measured] = Field(
        default_factory=list, description="the same on each source of the stream, in order of its first row"
    )
    curve: list[StreamPoint] = Field(default_factory=list, description="the stream in up to 20 stretches")
    order: str = Field("", description="SHA-256 of the rows' ids in the order in which they came, hexadecimal")
    batches: int = Field(0, ge=0, description="batches answered")
    batch_rows: int = Field(1, ge=1, description="rows of a batch, at most")
    reset: Literal["never", "source", "batch", "row"] = Field(
        "never", description="when the tuned weights came back of themselves"
    )
    restored: list[Restored] = Field(default_factory=list, description="when the guard put the tuned weights back")
    moved_parameters: int = Field(0, ge=0, description="parameters that could change")
    forwards: int = Field(0, ge=0, description="forward passes of the model, of a batch each")
    backwards: int = Field(0, ge=0, description="backward passes at test time")
    flops: float = Field(0.0, ge=0, description="floating-point operations, counted as those of training")
    flops_without: float = Field(0.0, ge=0, description="those of the same rows without adaptation")
    seconds: float = Field(0.0, ge=0, description="time, seconds")
    seconds_without: float = Field(0.0, ge=0, description="time of the same rows without adaptation, seconds")
