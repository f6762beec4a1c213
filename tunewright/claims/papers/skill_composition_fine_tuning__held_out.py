"""To combine some skills teaches to combine others, which were learnt one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _skills

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="skill-composition-fine-tuning",
    says="Of skills of a kind that no combination in training has, a model that is tuned on combinations of others "
    "writes more texts of two and three at once right than one that is tuned on texts of one skill.",
    task="induction",
    method=Arm(name="combined", methods=["full"]),
    baselines=[Arm(name="single", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.1,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a base of 3.4M parameters; a skill is a fixed phrase, which is learnt alone in both arms, and a text is "
    "right where every word is; one learning rate, the task's own",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of texts of two and three held-out skills that are right in every word."""
    return _skills.measured(run, seed, (2, 3), held_out=True)
