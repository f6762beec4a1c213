"""A sequential adapter needs its residual connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _spectrograms as lab
from tunewright.claims.papers.petl_ast import ADAPTERS, DIFFERS, SHARED

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    says="Sequential adapters tell at least five points more of new recordings with a residual connection of their own "
    "than without.",
    method=ADAPTERS,
    baselines=[
        Arm(
            name="without",
            methods=[{"bottleneck-adapters": {"config": "houlsby", "reduction_factor": 32, "residual": False}}],
        )
    ],
    smallest=0.05,
    differs=f"{DIFFERS}; the paper studies it for parallel adapters too",
    **SHARED,
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy on new recordings."""
    return {a.name: lab.accuracy(run, a.name, seed) for a in run.claim.arms}
