"""What a method found out in its stage, for the report: figures by name, with what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Figure = str | int | float | bool | None


@dataclass(frozen=True)
class Found:
    """Shown beside a run's probes under the method's name, and kept with its stage. `description` says what the figures
    mean, with units; `notes` are sentences that a reader has to know first (what the figures do not say). `kept_rows`:
    stage -> rows of its data that are kept for later stages to learn from again.
    """

    title: str
    description: str
    values: Mapping[str, Figure] = field(default_factory=dict)
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Figure]] = ()
    notes: Sequence[str] = ()
    kept_rows: Mapping[str, int] = field(default_factory=dict)
