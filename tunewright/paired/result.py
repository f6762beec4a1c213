"""The types of `measured.json`: two models on the same rows, each difference paired, with its interval."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from tunewright.measure.intervals import Interval
from tunewright.report.gated import Gate
from tunewright.report.measured import Measured
from tunewright.report.packed import PackFigure
from tunewright.report.saved import Part, Saved
from tunewright.report.schema import Probe


class SideInfo(Part):
    """One of the two sides: several runs where a method was trained with several seeds."""

    names: list[str] = Field(description="what was named: folders or hub ids")
    kind: Literal["run", "adapter", "model", "lm-eval"] = Field(description="what they are")
    model: str | None = Field(None, description="of a harness's output: the model that it says it asked")
    hashes: list[str] = Field(default_factory=list, description="SHA-256 of the weights that each stands on")


class Compared(Measured):
    """A figure of both sides; `before` is the first's, `after` the second's."""

    right: tuple[int, int] | None = Field(
        None, description="of a metric that is 0 or 1 a row: rows that only the first, only the second has right"
    )
    mcnemar: float | None = Field(
        None, ge=0, le=1, description="p of McNemar's exact test that both are right equally often, from `right`"
    )


class Apart(Part):
    """How far the second side's predictions are from the first's."""

    measure: str = Field(description="what it is: KL, or 1 - linear CKA")
    value: Interval = Field(description="in nats per token (KL), or 0 to 1 (CKA)")
    on: str = Field(description="in words: what it was measured on")


class Pair(Saved):
    """`measured.json`."""

    file: ClassVar[str] = "measured.json"
    noun: ClassVar[str] = "measurement"
    where_else: ClassVar[str] = "point to the folder that `tunewright measure --out` wrote"
    again: ClassVar[str] = "measure again with this version of tunewright"

    version: Literal[1] = Field(1, description="version of this format; a change of meaning raises it")
    first: SideInfo = Field(description="the side that differences start from")
    second: SideInfo = Field(description="the other side")
    task: str | None = Field(None, description="the hub's name of the task")
    target: Compared | None = Field(None, description="the headline metric on the rows")
    others: list[Compared] = Field(default_factory=list, description="further metrics, such as a harness's tasks")
    kept: list[Measured] = Field(default_factory=list, description="loss on each kept text, paired by document")
    packs: list[PackFigure] = Field(default_factory=list, description="questions judged by rule, paired by question")
    calibration: Compared | None = Field(None, description="expected calibration error of answers with a confidence")
    drift: Apart | None = Field(None, description="how far the second is from the first")
    probes: dict[str, Probe] = Field(default_factory=dict, description="probe -> result, the first side as the base")
    notes: list[str] = Field(default_factory=list, description="what to know when reading it")
    gate: Gate | None = Field(None, description="the verdict on conditions that were asked for")
