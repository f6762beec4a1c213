"""English all along costs the new language nothing: its loss is no higher, though fewer of its tokens are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm
from tunewright.claims.papers import language_cpt_emergence as first

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = first.CLAIM.model_copy(
    update={
        "says": "A fifth of English among the tokens does not raise the loss of the new language by more than 0.05 "
        "nats a token.",
        "method": Arm(name="english", methods=["full"]),
        "direction": "lower",
        "smallest": -0.05,
    }
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of German law, nats a token."""
    return {arm.name: first.trial(run, arm.name, seed).tuned.target for arm in run.claim.arms}
