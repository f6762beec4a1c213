"""What one model gave where it was measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tunewright.measure.drift import (
    Drift,
    Features,
)
from tunewright.measure.kept import DocumentLoss
from tunewright.measure.rows import RowResult

ROWS = ("target", "choice", "few_shot", "probe", "commonest")
"""What readings hold a result a row of."""


@dataclass
class Readings:
    """What one model gave. Empty where the recipe has no rows for it."""

    target: list[RowResult] = field(default_factory=list)
    choice: list[RowResult] = field(default_factory=list)
    few_shot: list[RowResult] = field(default_factory=list)
    probe: list[RowResult] = field(default_factory=list)
    commonest: list[RowResult] = field(default_factory=list)
    baselines: dict[str, list[RowResult]] = field(default_factory=dict)
    kept: dict[str, list[DocumentLoss]] = field(default_factory=dict)
    packs: dict[str, list[RowResult]] = field(default_factory=dict)
    others: dict[str, list[RowResult]] = field(default_factory=dict)
    drift: Drift | None = None
    features: Features | None = None

    def values(self) -> dict[str, Any]:
        """JSON values of all but the drift and what it is made of."""
        rows = {k: [r.model_dump() for r in getattr(self, k)] for k in ROWS}
        kept = {n: [vars(d) for d in docs] for n, docs in self.kept.items()}
        more = {"packs": self.packs, "baselines": self.baselines, "others": self.others}
        named = {k: {n: [r.model_dump() for r in rs] for n, rs in v.items()} for k, v in more.items()}
        return {**rows, "kept": kept, **named}

    @classmethod
    def of(cls, values: dict[str, Any]) -> Readings:
        found = cls(kept={n: [DocumentLoss(**d) for d in docs] for n, docs in values["kept"].items()})
        for name in ("packs", "baselines", "others"):
            setattr(found, name, {n: [RowResult(**r) for r in rows] for n, rows in values.get(name, {}).items()})
        for name in ROWS:
            setattr(found, name, [RowResult(**r) for r in values[name]])
        return found
