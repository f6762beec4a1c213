"""Pretexts added one by one, each stage training all so far, make a better start for a task than the other two ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _pretexts as pretexts
from tunewright.claims.papers import _reading_on as reading

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="ernie-2-0",
    says="An encoder that learns four pretexts one after the other, each stage together with those before, is more "
    "accurate by at least 0.01 after fine-tuning on 200 labelled rows than one that learns all four at once from the "
    "start, and than one that learns each alone, for as many rows of each.",
    task="topics",
    method=Arm(name="sequential-multi-task", methods=["full"], uses=["ernie-2-0"]),
    baselines=[
        Arm(name="joint", methods=["full"], uses=["ernie-2-0"]),
        Arm(name="sequential", methods=["full"], uses=["ernie-2-0"]),
    ],
    metric="measured",
    direction="higher",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="an encoder of 2.6M parameters, 240 texts of 65 words and four pretexts without masked words, in the place "
    "of BERT's size and corpora; queries of ten domains for GLUE; rates taken once",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy on the task's 300 rows after fine-tuning on 200."""
    return {
        arm.name: reading.accuracy(run, arm.name, seed, pretexts.folder(run, arm.name, seed, "nano-encoder"))
        for arm in run.claim.arms
    }
