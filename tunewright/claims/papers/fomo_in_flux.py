"""Over a stream of updates, merging each with what was before gains and keeps more than fine-tuning on and on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _updates as lab

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="fomo-in-flux",
    says="After four updates of a model of pictures and texts, each under one budget of operations, merging every "
    "update with what it began from finds the right one of sixty texts at least two points more often than fine-tuning "
    "and low-rank changes that go on from update to update, half of what is judged being what the model knew before.",
    task="topics",
    method=Arm(name="merged", methods=["full", {"ema-merge": {"weight": 0.5}}]),
    baselines=[
        Arm(name="full", methods=["full"]),
        Arm(name="lora", methods=[{"lora": {"rank": 8, "alpha": 16.0}}]),
    ],
    metric="measured",
    direction="higher",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="two small towers and four updates of coloured digits instead of CLIP and up to 200 updates over 63 sets; "
    "no pre-training rows beside the updates; one rate for all arms, and a weight of one half",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of the pictures, half upright and half of the updates' ways, whose text comes first among sixty."""
    return {arm.name: float(lab.updated(run, arm.name, seed).tuned.target) for arm in run.claim.arms}
