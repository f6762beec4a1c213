"""The types of `compare.json`: several methods on one task under one budget, every figure over seeds.

One file, one version. Intervals are t intervals over seeds; what was not measured is null. Drift is named with its
measure, and KL and 1 - CKA never share a field's scale: a comparison holds one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field, field_validator

from tunewright.measure.intervals import Interval
from tunewright.report.saved import Part, Saved

VERSION: Literal[1] = 1
Word = Literal["best", "tied with the best", "behind the best", "unclear"]


class Against(Part):
    """An arm beside the best one, paired by seed."""

    word: Word = Field(
        description="'tied with the best' where the interval holds 0, the best having been picked after the fact"
    )
    difference: Interval | None = Field(
        None,
        description="this arm minus the best one, positive: better; with the others' intervals right at once in 95 % "
        "(none for the best itself)",
    )
    over_rows: Interval | None = Field(
        None,
        description="the same over seeds and rows, where runs kept what each row gave; no word hangs on it",
    )
    p: float | None = Field(None, description="how often the best of as many equal methods is this far ahead of any")
    reason: str | None = Field(None, description="why it is unclear")

    @field_validator("word", mode="before")
    @classmethod
    def _not_shown(cls, word: Any) -> Any:
        """Files of before have a word for what was not shown after a correction: it is a tie."""
        return "tied with the best" if word == "likely behind the best" else word


class Dropped(Part):
    """Why a race ran a method no further."""

    after: int = Field(description="seeds that it had run")
    behind: str = Field(description="the method that was best then")
    difference: Interval = Field(description="this method minus that one over those seeds, positive: better")


class Look(Part):
    """One look of a race."""

    after: int = Field(description="seeds run by then")
    limit: float = Field(description="the paired t above which a method is dropped, or at the last look called behind")
    spent: float = Field(
        description="chance, by this look and all before it, that any of as many equal methods is dropped"
    )


class RaceFigures(Part):
    """How a race went."""

    looks: list[Look]
    spared_runs: int = Field(description="runs that were not made")
    spared_seconds: float = Field(description="what they would have taken, as the same methods' other runs")
    spared_flops: float | None = Field(None, description="in training; none where FLOPs were not counted")


class RunFigures(Part):
    """One seed of one arm."""

    seed: int
    status: Literal["finished", "failed", "killed"] = Field(description="killed: its process died")
    error: str | None = Field(None, description="what ended it and where")
    target: float | None = Field(None, description="the target's metric after training")
    gain: float | None = Field(None, description="its change over the base, positive: better")
    kept: dict[str, float] = Field(
        default_factory=dict, description="kept name -> change of its loss, nats per token, positive: worse"
    )
    packs: dict[str, float] = Field(
        default_factory=dict, description="pack -> change of its share of right answers, positive: better"
    )
    drift: float | None = None
    sequence: dict[str, float] = Field(
        default_factory=dict, description="of a sequence of tasks: forgetting, backward_transfer ..."
    )
    lost_at_target: float | None = Field(
        None, description="mean change of kept losses where the curve reaches the common target"
    )
    drift_at_target: float | None = Field(None, description="drift there")
    tokens: int | None = None
    steps: int | None = None
    flops_per_token: float | None = Field(
        None, description="counted in training, statistics before it included, by training tokens"
    )
    train_seconds: float | None = Field(None, description="in training steps")
    setup_seconds: float | None = Field(None, description="set-up and statistics")
    seconds: float = Field(0.0, description="the whole run, measuring included")
    peak_memory_bytes: int | None = None
    key: str = Field(description="the trial's key in the store")
    attempt: int = 1


class CurvePoint(Part):
    """One strength of an arm, over its finished seeds."""

    strength: float
    target: Interval
    kept: Interval | None = Field(None, description="mean loss over the entries of `keep`, nats per token")
    drift: Interval | None = None


class TunedRate(Part):
    """One learning rate that was tried on validation rows."""

    rate: float
    scores: list[float | None] = Field(description="one per seed; null: the run did not finish")


class ArmFigures(Part):
    """One method, or group of methods, over seeds."""

    name: str
    methods: list[Any] = Field(description="as a recipe names them")
    joint: bool = Field(
        False, description="all tasks of the sequence at once: a bound, beside which no method is judged"
    )
    select: list[Any] | None = Field(
        None, description="selectors of its rows, as a recipe names them; null: methods are compared"
    )
    parameters: dict[str, dict[str, Any]] = Field(default_factory=dict, description="method -> every parameter")
    rate: float | None = Field(None, description="learning rate; none: tuning found none at which runs finish")
    tuning: list[TunedRate] = Field(default_factory=list, description="what was tried, when tuned")
    tuning_seconds: float = Field(0.0, description="what the tuning took")
    rate_at_edge: bool = Field(False, description="the best rate was still the outermost one tried")
    rates_tied: list[float] = Field(
        default_factory=list, description="rates that did as well on validation rows within the noise, rising"
    )
    budget: dict[str, float] = Field(
        default_factory=dict, description="what training was given, set-up taken off where that counts"
    )
    runs: list[RunFigures] = Field(default_factory=list)
    dropped: Dropped | None = Field(None, description="by the race, before it had run all seeds")
    gain: Interval | None = Field(None, description="positive: better")
    gain_over_rows: Interval | None = Field(None, description="over seeds and rows, where runs kept what each row gave")
    target: Interval | None = None
    against: Against | None = Field(None, description="gain, beside the best")
    lost: Interval | None = Field(
        None, description="change of kept losses at full strength, nats per token, positive: worse"
    )
    lost_at_target: Interval | None = Field(None, description="at the common target")
    lost_at_best_rate: Interval | None = Field(
        None, description="the same at `rate`, where a smaller one is tied with it, at which it was compared"
    )
    lost_against: Against | None = Field(
        None, description="what it keeps at the common target, beside the arm that keeps most"
    )
    packs: dict[str, Interval] = Field(
        default_factory=dict, description="pack -> change of its share of right answers at full strength"
    )
    sequence: dict[str, Interval] = Field(
        default_factory=dict,
        description="of a sequence of tasks: forgetting, backward_transfer, forward_transfer, incremental_accuracy; "
        "held_bytes, what methods leave from task to task",
    )
    drift: Interval | None = None
    drift_at_target: Interval | None = None
    curve: list[CurvePoint] = Field(default_factory=list)
    trainable_parameters: int | None = None
    stored_parameters: int | None = None
    stored_bytes: int | None = None
    serves: list[str] | None = Field(None, description="why adapter servers cannot load the change; []: they can")
    train_seconds: float | None = Field(None, description="mean over seeds")
    setup_seconds: float | None = Field(None, description="mean over seeds")
    tokens: float | None = Field(None, description="training tokens, mean over seeds")
    flops_per_token: float | None = Field(
        None, description="FLOPs counted in training and its statistics by training tokens, mean over seeds"
    )
    peak_memory_bytes: float | None = Field(None, description="mean over seeds")
    notes: list[str] = Field(default_factory=list)

    @property
    def finished(self) -> list[RunFigures]:
        return [r for r in self.runs if r.status == "finished"]


class _Chosen(Protocol):
    """An arm, as it is asked for or as it came out."""

    @property
    def select(self) -> object: ...


def compared(arms: Sequence[_Chosen]) -> Literal["method", "selector"]:
    """What is compared: each of the arms is one."""
    return "method" if all(a.select is None for a in arms) else "selector"


class Comparison(Saved):
    """`compare.json`."""

    file: ClassVar[str] = "compare.json"
    noun: ClassVar[str] = "comparison"
    where_else: ClassVar[str] = "point to a comparison's folder"
    again: ClassVar[str] = "run `tunewright compare` again"

    version: Literal[1] = VERSION
    name: str = Field(description="the recipe's name")
    model: str
    task: str
    metric: str = Field("", description="the target's metric")
    unit: str = Field("fraction")
    tasks: list[str] = Field(
        default_factory=list, description="of a sequence: its tasks in order; the target is then the mean over them"
    )
    direction: Literal["higher", "lower"] = "higher"
    evaluated: int | None = Field(None, description="rows that the target was measured on")
    base_target: float | None = Field(None, description="the untouched base on those rows")
    base_kept: dict[str, float] = Field(default_factory=dict, description="its losses on what is to be kept")
    kept_unit: str = Field("nats per token", description="the unit of these losses")
    base_packs: dict[str, float] = Field(default_factory=dict, description="its shares of right answers of packs")
    drift_measure: Literal["kl", "1-cka", "forecast", "action", "denoising"] | None = None
    budget: dict[str, float] = Field(description="the one budget for all")
    budget_words: str = Field(description="what it counts")
    seeds: list[int]
    tuned: bool = Field(description="whether learning rates were tuned")
    share_of_gain: float = Field(
        0.9, description="the common target: this share of the smallest gain among the arms that are compared there"
    )
    arms: list[ArmFigures]
    race: RaceFigures | None = Field(None, description="where methods were dropped early (`--race`)")
    winner: str | None = None
    why: str = Field("", description="how the winner was chosen")
    cautions: list[str] = Field(default_factory=list)
    hardware: dict[str, Any] = Field(default_factory=dict)
    threads: int = 1
    versions: dict[str, str] = Field(default_factory=dict)
    commit: str | None = None
    command: str | None = None
    finished: datetime
    run_seconds: float = Field(
        0.0, description="time of all runs of this comparison, tuning included, one after the other"
    )

    def arm(self, name: str) -> ArmFigures:
        return next(a for a in self.arms if a.name == name)
