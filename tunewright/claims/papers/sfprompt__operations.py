"""Clients that hold a third of a model's blocks do a good part less work than clients that hold all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Claim
from tunewright.claims.papers._clients import COUNTED, DIFFERS, SHARED, told

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="sfprompt",
    says="Clients do at least 30 % fewer operations than those of federated averaging of all weights, learning alone, "
    "scores and rows with the server together.",
    metric="measured",
    direction="lower",
    relative=True,
    smallest=0.3,
    differs=f"{DIFFERS} (the paper's figure, 0.46 %, is of clients that hold far less of a model of 12 to 24 blocks)",
    **{**SHARED, **COUNTED},
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Operations of all clients in a round."""
    return told(run, seed, "operations")
