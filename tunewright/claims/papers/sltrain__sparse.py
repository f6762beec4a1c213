"""The sparse values are what a low-rank model lacks in pre-training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.sltrain import PARTS, loss_of

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

ALONE = {**PARTS, "sp_ratio": 1e-6}
CLAIM = Claim(
    paper="sltrain",
    says="Pre-trained from nothing, low rank plus 3 % of values at random places has a lower loss than low rank alone.",
    task="domain",
    method=Arm(name="sltrain", methods=[{"sltrain": PARTS}]),
    baselines=[Arm(name="low-rank", methods=[{"sltrain": ALONE}])],
    metric="measured",
    direction="lower",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a model of 0.2M parameters and half a million tokens; the values come on top of the same rank; one value "
    "a layer stands for none; one rate (3e-3), not tuned; German law is what it learns",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of both."""
    arms = {"sltrain": PARTS, "low-rank": ALONE}
    return {arm: loss_of(run, arm, seed, {"sltrain": parts}) for arm, parts in arms.items()}
