"""What a report says of figures along a stage: target, kept texts and others at each evaluation, and their gap."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunewright.measure.intervals import Interval
from tunewright.report.saved import Part

Of = Literal["target", "kept", "drift", "in-context", "distance"]


class AlongFigure(Part):
    """One figure at the evaluations of a stage; the first is before its first step."""

    name: str = Field(description="what it is of: a metric, a kept text's name, drift, copying, induction, distance")
    of: Of = Field(description="target, kept, drift, in-context or distance")
    direction: Literal["higher", "lower"] | None = Field(
        None, description="which way is better; null: neither, so that it has no gap"
    )
    unit: str = Field("nats per token", description="'fraction', 'nats per token' or another unit in words")
    steps: list[int] = Field(description="optimizer steps of the stage at each evaluation, from 0")
    values: list[Interval] = Field(description="the figure at each of them")
    depth: Interval | None = Field(
        None,
        description="stability gap: how far the worst evaluation lies below the start (paired by row, document or "
        "sequence; 0: none is worse). It is the worst of several, which its interval does not count in",
    )
    worst_step: int | None = Field(None, ge=0, description="the step of that evaluation; null: none is worse")
    recovered_step: int | None = Field(
        None, ge=0, description="first evaluation after it that is as good as the start; null: none was"
    )


class StageAlong(Part):
    """The figures along one stage."""

    stage: str = Field(description="the stage")
    figures: list[AlongFigure] = Field(default_factory=list, description="target first, then as the recipe names them")

    def plain(self) -> dict[str, float]:
        """Depths, worst and recovery steps, starts and ends by name, as plain numbers."""
        out: dict[str, float] = {}
        for f in self.figures:
            name = f"{f.of}.{f.name}"
            out |= {f"{name}.start": f.values[0].value, f"{name}.end": f.values[-1].value}
            if f.depth is not None:
                out[f"{name}.depth"] = f.depth.value
                steps = {"worst_step": f.worst_step, "recovered_step": f.recovered_step}
                out |= {f"{name}.{k}": float(v) for k, v in steps.items() if v is not None}
        return out
