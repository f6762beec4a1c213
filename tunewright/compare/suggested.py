"""What a suggestion holds: plain figures, without how they are found or shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Evidence:
    """A claim that was run: its `name` as in docs/claims.md, at which `scale` ("nano" or "real"), and what came of
    it.
    """

    name: str
    scale: str
    verdict: str
    says: str

    @property
    def headline(self) -> bool:
        """Whether the claim is its paper's headline: one about a part of it is named NAME--PART."""
        return "--" not in self.name


@dataclass(frozen=True)
class Beside:
    """A method beside `lora` in this project's own comparison: the difference of the target (a share: higher is better)
    over seeds that both had, with its 95 % interval. `task`: the comparison's name for it in docs/family.md.
    """

    task: str
    base: str
    metric: str
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Candidate:
    """A method that can be used. `trains`: numbers, new heads not counted (None: it counts only on the weights
    themselves); `state`: bytes of gradients and Adam's moments for them.
    """

    name: str
    summary: str
    trains: int | None
    state: int | None
    fits: bool
    folds: bool
    quantised: bool
    evidence: list[Evidence] = field(default_factory=list)
    compared: list[Beside] = field(default_factory=list)

    @property
    def headlines(self) -> list[Evidence]:
        """What came of the headline claims, real bases first."""
        return [e for e in self.evidence if e.headline]

    @property
    def shown(self) -> list[Evidence]:
        """The headline claims that hold."""
        return [e for e in self.headlines if e.verdict == "holds"]


@dataclass(frozen=True)
class Refused:
    """A method that cannot be used with this recipe, and what it says."""

    name: str
    why: str


@dataclass(frozen=True)
class SuggestionFigures:
    """What can be used, fewest trained numbers first, what cannot, and what to compare. `parameters` of the model;
    `stages` of the recipe, of which the first was reckoned with; `memory`: bytes that were reckoned with.
    """

    model: str
    parameters: int
    task: str
    rows: int
    stages: int
    memory: int | None
    candidates: list[Candidate]
    refused: list[Refused]
    compare: list[str]

    def command(self, recipe: str = "recipe.yaml") -> str | None:
        """The comparison that would settle it; None where there is none: of one method, or of several stages."""
        if len(self.compare) < 2 or self.stages > 1:
            return None
        return f"tunewright compare {recipe} --methods {','.join(self.compare)} --seeds 5 --tune --race"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
