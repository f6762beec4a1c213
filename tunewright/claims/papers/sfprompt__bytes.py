"""Clients of a split model send less than half of what federated averaging of all weights sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Claim
from tunewright.claims.papers._clients import COUNTED, DIFFERS, SHARED, told

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="sfprompt",
    says="Parameters, states and gradients that cross the network are at least 53 % fewer bytes than the weights of "
    "federated averaging, for each round.",
    metric="measured",
    direction="lower",
    relative=True,
    smallest=0.53,
    differs=f"{DIFFERS}; counted, without what a client is given once",
    **{**SHARED, **COUNTED},
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Bytes of a round."""
    return told(run, seed, "bytes")
