"""A policy that learns games one after the other says more of all their actions right with a pool of keyed changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _games as lab

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="l2m",
    says="A decision transformer that knows one game and learns two more, one after the other, says at least five "
    "points more of all three games' recorded actions right with a pool of keyed low-rank changes than where one "
    "low-rank change, or the whole model, goes on from game to game; nobody tells it which game it plays.",
    task="topics",
    method=Arm(name="l2m", methods=["l2m"]),
    baselines=[
        Arm(name="lora", methods=[{"lora": {"rank": 8, "alpha": 16.0}}]),
        Arm(name="full", methods=["full"]),
    ],
    metric="measured",
    direction="higher",
    smallest=0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="three small games of gymnasium instead of Meta-World and DMControl, one of them known before instead of "
    "60; recorded actions instead of returns; low-rank changes alone; one rate for all arms",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of the recorded actions of all three games that the policy says after the last one."""
    return {arm.name: float(lab.played(run, arm.name, seed).tuned.target) for arm in run.claim.arms}
