"""Masks whose gradients are dropped where they fight the towers as they were keep new classes better than others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _two_towers as lab

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

DROPPED = Arm(name="r-amt", methods=["r-amt"])
PLAIN = Arm(name="mask-tuning", methods=[{"r-amt": {"drop": 0.0}}])

CLAIM = Claim(
    paper="r-amt",
    says="After 16 rows each of half the classes, towers whose attention was masked with the gradients dropped find "
    "the right one of thirty other classes at least one point more often than towers masked without.",
    task="topics",
    method=DROPPED,
    baselines=[PLAIN],
    metric="measured",
    direction="higher",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="new classes alone, where the paper reports the mean over eleven data sets of classes that were learnt "
    "(18.7 points above CLIP) and base-to-new beside it; two small towers of two blocks that know coloured digits "
    "upright, which are turned; one rate",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of the pictures of new classes whose text comes first among thirty."""
    return {arm.name: float(lab.few(run, arm.name, seed).tuned.target) for arm in run.claim.arms}
