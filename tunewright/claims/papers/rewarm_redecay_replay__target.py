"""Replaying a quarter of old data costs the new domain next to nothing."""

from __future__ import annotations

from tunewright.claims.claim import Claim
from tunewright.claims.papers.rewarm_redecay_replay__kept import CLAIM as KEPT

CLAIM = Claim.model_validate(
    {
        **dict(KEPT),
        "says": (
            "Replaying a quarter of old data, which takes the place of new tokens, adapts to the new data about "
            "as well (the second part)."
        ),
        "metric": "target",
        "smallest": -0.05,
    }
)
