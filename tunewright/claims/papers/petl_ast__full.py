"""Adapters come near to full tuning of a transformer of spectrograms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _sounds as lab
from tunewright.claims.papers.petl_ast import ADAPTERS, FEW

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="petl-ast",
    says="On a new task of sounds, adapters behind attention and feed-forward part are right at most two points less "
    "often than full tuning.",
    method=ADAPTERS,
    baselines=[Arm(name="full", methods=["full"])],
    smallest=-0.02,
    differs=lab.DIFFERS,
    **lab.SHARED,
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy on 300 clips."""
    return lab.accuracies(run, seed, CLAIM, {"adapters": FEW, "full": (3e-4, 1e-3)})
