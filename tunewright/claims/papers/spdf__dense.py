"""After sparse pre-training, tuning the held weights as well does better than to leave them at zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.spdf import loss_of

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="spdf",
    says="From one model that was pre-trained with 75 % of the blocks' weights at zero, tuning all of them gives a "
    "lower loss than tuning those that were trained: capacity comes back with the zeros.",
    task="domain",
    method=Arm(name="freed", methods=["full"], uses=["spdf"]),
    baselines=[Arm(name="held", methods=["spdf"])],
    metric="measured",
    direction="lower",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a model of 0.2M parameters and half a million tokens; German law; one rate each, not tuned",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of both after the same pre-training."""
    return {
        "freed": loss_of(run, "freed", seed, "spdf", "full"),
        "held": loss_of(run, "held", seed, "spdf", "spdf"),
    }
