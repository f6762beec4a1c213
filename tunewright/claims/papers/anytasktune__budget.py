"""A budget of tokens that is spent on named sub-tasks gains more of them than one spent on general instructions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.anytasktune import exact

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="anytasktune",
    says="A base that is tuned on rows of eight named sub-tasks answers more of their new rows right than the same "
    "base tuned on general instructions for as many tokens.",
    task="induction",
    method=Arm(name="sub-tasks", methods=["full"]),
    baselines=[Arm(name="general", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a base of 3.4M parameters, and eight kinds of short instructions in the place of sub-tasks of law, health "
    "and finance; general instructions are people's; exact match instead of judged answers; what is lost elsewhere is "
    "not judged",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Exact match on new rows of the sub-tasks after either kind of rows."""
    return {"sub-tasks": exact(run, "sub-tasks", seed), "general": exact(run, "general", seed, general=True)}
