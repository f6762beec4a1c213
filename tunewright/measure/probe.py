"""What a probe is given and gives.

A probe looks at a base and a tuned model side by side: their weights, or answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from tunewright.measure.intervals import Interval
from tunewright.measure.rows import RowResult

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Side:
    """One of the two models. `weights` by parameter name, as stored (may be read lazily); `answers` by what was asked
    ("target", "choice"), one result per row; `features` [R, D] of what a classifier's head reads of the target's rows,
    made when asked for. Any may be missing: a probe says so when it needs it."""

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    answers: Mapping[str, Sequence[RowResult]] = field(default_factory=dict)
    features: Callable[[], Tensor] | None = None


class ProbeResult(BaseModel):
    """Single values and one table, with what they mean."""

    model_config = ConfigDict(extra="forbid")

    title: str = Field(description="heading")
    description: str = Field(description="what the numbers mean, with units")
    values: dict[str, Value | Interval] = Field(default_factory=dict, description="name -> single value")
    columns: list[str] = Field(default_factory=list, description="headings of the table")
    rows: list[list[Value]] = Field(default_factory=list, description="cells, one list a row")
