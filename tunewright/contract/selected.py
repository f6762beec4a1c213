"""What a selector gives when it says more than indices: a whole subset, with each record's scores and why it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Selected:
    """A subset of n records, in the order in which they are kept.

    `weights`: one above 0 for each index, which multiplies the loss weights of that record's rows. `scores`: by name a
    number for each of the n records. `reasons`: a sentence for each of the n, "" where there is nothing to say. Scores
    and reasons are written into the run's folder beside what was kept.
    """

    indices: Sequence[int]
    weights: Sequence[float] | None = None
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    reasons: Sequence[str] | None = None
