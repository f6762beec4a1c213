"""Clients that hold the ends of a model learn about as well as clients that hold and train all of it."""

from __future__ import annotations

from tunewright.claims.claim import Claim
from tunewright.claims.papers._clients import DIFFERS, SHARED

CLAIM = Claim(
    paper="sfprompt",
    says="A prompt and the last block, trained by clients mostly without the body, are at most three points of "
    "accuracy behind federated averaging of all weights, after as many rounds.",
    metric="target",
    direction="higher",
    smallest=-0.03,
    differs=f"{DIFFERS}; 16 rounds, at rates that were not searched",
    **SHARED,
)
