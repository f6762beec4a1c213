"""From what a stage on captions left, one pass over few rows is enough to tell new classes better."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Claim
from tunewright.claims.papers.gram import COOP, LEARNT, trial

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="gram",
    says="After a single pass over 16 rows each of half the classes, a prompt that started where a stage on captions "
    "left it finds the right one of thirty other classes at least two points more often than one that started at the "
    "usual words.",
    task="topics",
    method=LEARNT,
    baselines=[COOP],
    metric="measured",
    direction="higher",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="one pass, where the paper reports accuracies by shots; captions are those that the towers were trained "
    "on; new classes alone; the regulating function is ours",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of the pictures of new classes whose text comes first among thirty."""
    return {arm.name: float(trial(run, arm.name, seed, epochs=1).tuned.target) for arm in run.claim.arms}
