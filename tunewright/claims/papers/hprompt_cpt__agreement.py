"""Held to what it was under prompts of no domain, an encoder stays better at domains that it has not read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.hprompt_cpt import PROMPTED, loss_of

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="hprompt-cpt",
    says="After three domains one after the other, the loss of a fourth that was never read is lower by at least 0.01 "
    "nats a masked token with the agreement under drawn prompts than without it.",
    task="topics",
    method=PROMPTED,
    baselines=[Arm(name="without", methods=[{"hprompt-cpt": {"agreement": 0.0}}])],
    metric="measured",
    direction="lower",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="the loss of masked words of the unread domain, where the paper tunes a task of it; an encoder of 2.6M "
    "parameters; the agreement's form and weight are ours",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the unread domain by arm."""
    return {arm.name: loss_of(run, arm.name, seed) for arm in run.claim.arms}
