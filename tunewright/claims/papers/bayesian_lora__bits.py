"""What the gates leave of a change takes 70 % fewer bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.merging import finished

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="bayesian-lora",
    says="After 400 steps with the prior's default strength, what the gates leave of a change takes at least 70 % "
    "fewer bits than its numbers in 16 bits.",
    task="topics",
    method=Arm(name="bayesian-lora", methods=[{"bayesian-lora": {"rank": 8}}]),
    metric="measured",
    direction="higher",
    smallest=0.7,
    seeds=5,
    rates=(),
    budget={"steps": 400},
    strengths=(1.0,),
    scales=("nano",),
    differs="bits that a change takes, where the paper has operations of a whole model; a small encoder; accuracy is "
    "the claim bayesian-lora",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of 16 bits a number that the change does not take."""
    from tunewright.finished.finished import open_run
    from tunewright.models.nested_bits import NestedBits

    opened = open_run(finished(run, run.recipe("bayesian-lora", seed)).folder)
    changes = [d for by_name in opened.adapted.deltas().values() for d in by_name.values() if isinstance(d, NestedBits)]
    bits, numbers = (sum(of) for of in zip(*(d.bits_of() for d in changes), strict=True))
    return {"bayesian-lora": 1 - bits / (16 * numbers)}
