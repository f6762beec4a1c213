"""After fine-tuning, general text is lost less where the domain was there from the start of pre-training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.papers import specialized_pretraining as first

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = first.CLAIM.model_copy(
    update={
        "says": "Specialised pre-training forgets less: general text has a lower loss after fine-tuning on the domain "
        "than after standard pre-training and the same fine-tuning.",
    }
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of general text after both stages, nats a token."""
    return {name: record.tuned.kept["general"] for name, record in first.trials(run, seed).items()}
