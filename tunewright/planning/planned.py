"""What a plan holds: plain figures, without how they are found or shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tunewright.data.view import Token
from tunewright.planning.estimate import STEPS
from tunewright.planning.estimated import Estimate
from tunewright.planning.on import OnPaper


@dataclass
class SourcePlan:
    """One source: rows as read, and what became of them. `role`: train, eval, validation, keep or replay.
    `picture_tokens`: of the tokens, those that pictures became, on which no loss is put.
    """

    name: str
    role: str
    read: int
    rows: int
    tokens: int
    trained_tokens: int
    too_long: int
    pieces: int
    zero_trained: int
    picture_tokens: int = 0


@dataclass
class Ends:
    """Of `rows` rows looked at: how many begin with exactly one BOS (`bos`: whether the tokenizer gives one at all),
    and how many end in a trained end token."""

    rows: int
    bos: bool
    one_bos: int
    end_trained: int


@dataclass
class StagePlan:
    """One stage: methods as {name, slots, parameters}, and `roles` as {role: (trained, all)} parameters.

    `few`: what to say where its steps are too few to learn from; `cautions`: where a method cannot act in them.
    """

    name: str
    start: str
    carry: str
    methods: list[dict[str, Any]]
    steps: int
    tokens: int
    exact: bool
    rows: int
    steps_per_epoch: float
    few: str | None
    cautions: list[str]
    trainable: int
    roles: dict[str, tuple[int, int]]


@dataclass
class PlanFigures:
    """What a recipe would do. `leak`: largest difference between packed rows' logits and each alone's, over their
    standard deviation (None: rows are padded). `measured`: rows that gain may be measured on. `load`: seconds to load
    model and data. `on`: what it takes on machines that were named."""

    model: dict[str, Any]
    task: str
    device: str
    precision: str
    packed: bool
    notes: list[str]
    sources: list[SourcePlan]
    ends: Ends | None
    measured: int
    leak: float | None
    leak_limit: float
    view: dict[str, list[Token]]
    stages: list[StagePlan]
    load: float
    memory: int | None
    estimate: Estimate
    on: OnPaper | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values. Seconds, bytes, tokens."""
        figures = asdict(self)
        e = self.estimate
        for stage in figures["estimate"]["stages"]:
            del stage["result"]
        if self.on is not None:
            for told, stage in zip(figures["on"]["stages"], self.on.stages, strict=True):
                told["memory"] = stage.memory
            figures["on"] |= {"needs": self.on.needs, "fits": self.on.fits}
        figures["estimate"] |= {"train": e.train, "total": e.total + self.load, "probe_steps": STEPS}
        return figures
