"""At a fifth of the pass the nearest rows have taught more of unseen tasks than as many by chance or the farthest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.test_centric_arrangement import DIFFERS, METHOD, PASS, loss_of

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper=METHOD,
    says="Zero-shot generalisation comes early and by likeness: at a fifth of a pass the loss on unseen tasks is lower "
    "in turns of the nearest rows than in random order, and than in turns of the farthest.",
    task="domain",
    method=Arm(name="nearest", methods=["full"], uses=[METHOD]),
    baselines=[Arm(name="random", methods=["full"]), Arm(name="farthest", methods=["full"], uses=[METHOD])],
    metric="measured",
    direction="lower",
    smallest=0.05,
    seeds=5,
    strengths=(1.0,),
    rates=(),
    scales=("nano",),
    differs=f"{DIFFERS}; the rate has its whole schedule in that fifth",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss after a fifth of a pass in each order."""
    orders = {"nearest": "nearest", "random": None, "farthest": "farthest"}
    return {arm: loss_of(run, arm, seed, PASS // 5, order) for arm, order in orders.items()}
