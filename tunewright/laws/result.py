"""What fitting laws found, as data. Losses are nats per token, tokens those that went through training."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Figures(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Foreseen(_Figures):
    """A figure of a law with its 95 % interval."""

    value: float
    low: float
    high: float


class Checked(_Figures):
    """A loss that a law foresaw without having seen its run, beside what was measured."""

    run: str
    text: str = Field(description="domain, general, or the text that was followed")
    share: float = Field(description="of domain text, 0 to 1")
    tokens: int
    measured: float
    foreseen: Foreseen

    @property
    def inside(self) -> bool:
        """Whether the interval holds what was measured."""
        return self.foreseen.low <= self.measured <= self.foreseen.high


class Judged(_Figures):
    """How a law did on runs that it had not seen."""

    checked: list[Checked]
    error: float = Field(description="mean absolute error, nats per token")
    carried: float = Field(
        description="the same of taking the loss of the nearest run that was seen, by share, then by tokens or step"
    )
    inside: float = Field(description="the share of the 95 % intervals that hold what was measured")


class Mixed(_Figures):
    """Losses that a run of a mixture is foreseen to end with."""

    share: float = Field(description="of domain text, 0 to 1")
    tokens: int
    domain: Foreseen
    general: Foreseen


class Critical(_Figures):
    """The critical mixture ratio at a budget."""

    tokens: int
    share: Foreseen = Field(description="the largest share of domain text whose general loss stays within tolerance")


class Mixture(_Figures):
    """The law of mixtures and tokens (cmr-scaling-law), fitted to all runs' ends."""

    base_domain: float = Field(description="the untouched base's loss on the domain's text")
    base_general: float = Field(description="and on general text")
    unit: float = Field(description="T0: what the law counts tokens in")
    domain: dict[str, float] = Field(description="parameter -> value")
    general: dict[str, float] = Field(description="parameter -> value")
    fitted_error: float = Field(description="root of the mean squared relative error of the fitted losses, both texts")
    tolerance: float = Field(description="how far the general loss may rise")
    judged: Judged | None = Field(description="null: no runs were left to judge it on")
    foreseen: list[Mixed]
    critical: list[Critical]


class Followed(_Figures):
    """A loss that a run is foreseen to end with, under the longest run's schedule stretched to its tokens."""

    share: float = Field(description="of domain text, 0 to 1")
    tokens: int
    loss: Foreseen


class Dynamics(_Figures):
    """The law of learning rates (cpt-dynamics-law), fitted to all runs' evaluations while training."""

    text: str = Field(description="what was evaluated: data.validation, or data.eval where there is none")
    parameters: dict[str, float] = Field(description="parameter -> value")
    momentum: float = Field(description="lambda: what is left of a fall of the rate after each step")
    forward_unit: float = Field(description="what S1 is counted in: sum of learning rates")
    annealing_unit: float = Field(description="what S2 is counted in")
    fitted_error: float = Field(description="root of the mean squared relative error of the fitted losses")
    points: int
    judged: Judged | None = Field(description="null: no runs were left to judge it on")
    foreseen: list[Followed]


class Used(_Figures):
    """A run that laws were fitted to or judged on."""

    run: str
    share: float = Field(description="of domain text, 0 to 1")
    tokens: int
    steps: int
    domain: float | None = Field(description="at its end")
    general: float | None = Field(description="at its end")
    part: Literal["fitted", "held out", "left out"] = Field(
        description="held out: laws were judged on it, before they were fitted to it too; left out: of no law"
    )


class LawFigures(_Figures):
    """`fit-laws`: laws fitted over finished runs; one that could not be is null, and notes say why."""

    runs: list[Used]
    mixture: Mixture | None
    dynamics: Dynamics | None
    notes: list[str]
