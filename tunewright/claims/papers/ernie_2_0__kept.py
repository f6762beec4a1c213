"""Stages that train earlier pretexts beside the new one keep what was learnt of them; stages of one pretext do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _pretexts as pretexts

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="ernie-2-0",
    says="After four pretexts that came one after the other, an encoder that trained all so far in each stage is right "
    "on more rows of new texts, over all four, by at least 0.1 than one that trained each alone, for as many rows.",
    task="topics",
    method=Arm(name="sequential-multi-task", methods=["full"], uses=["ernie-2-0"]),
    baselines=[Arm(name="sequential", methods=["full"], uses=["ernie-2-0"])],
    metric="measured",
    direction="higher",
    smallest=0.1,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="the pretexts themselves are judged, which the paper does not report; an encoder of 2.6M parameters; four "
    "pretexts without masked words; one rate for both",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of rows of all four pretexts that are right, as many of each."""
    out = {}
    for arm in run.claim.arms:
        recipe = pretexts.learnt(run, arm.name, seed, "nano-encoder")
        record = run.engine.run_one(run.cut(recipe), True)
        out[arm.name] = float(record.tuned.target)
    return out
