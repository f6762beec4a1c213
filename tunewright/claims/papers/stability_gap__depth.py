"""General text falls less far at the beginning where the three remedies are taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.papers import stability_gap as first

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = first.CLAIM.model_copy(
    update={
        "says": "The gap is less deep: at the worst evaluation on the way, general text has lost less with the three "
        "remedies than in one pass over the domain.",
        "smallest": 0.1,
    }
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Depth of the gap of general text, nats a token, along each arm's run."""
    return {name: record.along["main"]["kept.general.depth"] for name, record in first.trials(run, seed).items()}
