"""General instructions help a task more where it has few rows than where it has many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.specialist_or_generalist import FEW, MANY, loss_of

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="specialist-or-generalist",
    says="What general instructions take off a broad task's loss is more, by 0.05 nats a token, with 60 of its rows "
    "than with 480.",
    task="induction",
    method=Arm(name="mixed", methods=["full"]),
    baselines=[Arm(name="specialist", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra={"measurement": {"metric": "loss"}},
    scales=("nano",),
    differs="as the paper's first claim here; what is compared is one difference of losses, with few rows (under the "
    "name of the mixture) and with many (under that of the specialist)",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """By how much the mixture's loss is below the specialist's, with few rows and with many."""
    gains = {n: loss_of(run, "specialist", seed, n) - loss_of(run, "mixed", seed, n) for n in (FEW, MANY)}
    return {"mixed": gains[FEW], "specialist": gains[MANY]}
