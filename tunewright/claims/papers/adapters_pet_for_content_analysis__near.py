"""A near domain learnt first helps adapters that see few sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _opinions as lab
from tunewright.claims.papers.adapters_pet_for_content_analysis import ADAPTERS, DIFFERS, SHARED

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    says="Adapters that learnt a near domain first tell at least two points more of other sentences, after 32 of them, "
    "than adapters that did not.",
    method=ADAPTERS,
    baselines=[Arm(name="few", methods=ADAPTERS.methods)],
    smallest=0.02,
    differs=DIFFERS,
    **SHARED,
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy on other sentences."""
    return {a.name: lab.accuracy(run, a.name, seed, near=a.name == "adapters") for a in run.claim.arms}
