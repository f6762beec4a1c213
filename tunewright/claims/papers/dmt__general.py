"""What keeps the skill costs the general answers next to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _instructions
from tunewright.claims.papers.dmt import loss_of

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="dmt",
    says="With 2 % of a skill's rows among the general instructions of the second stage, the loss of new general "
    "answers is at most 0.02 nats a token above that without them.",
    task="arithmetic",
    method=Arm(name="dmt", methods=["full"]),
    baselines=[Arm(name="sequential", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=-0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra={"measurement": {"metric": "loss"}},
    scales=("nano",),
    differs="as the paper's first claim here; judged by the loss of people's answers instead of MT-Bench",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of new general answers."""
    return {arm: loss_of(run, arm, seed, _instructions.general()["eval"]) for arm in ("dmt", "sequential", "at once")}
