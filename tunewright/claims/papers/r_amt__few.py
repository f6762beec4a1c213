"""A small part of the attention's weights is all that mask tuning takes away, and less of it with gradients dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Claim
from tunewright.claims.papers import _two_towers as lab
from tunewright.claims.papers.r_amt import DROPPED, PLAIN

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="r-amt",
    says="Of the picture tower's attention weights at least a tenth fewer are masked in the end where gradients were "
    "dropped than where they were not.",
    task="topics",
    method=DROPPED,
    baselines=[PLAIN],
    metric="measured",
    direction="lower",
    relative=True,
    smallest=0.1,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="the paper reports 2.56 % masked on average, and no figure without the dropping; two small towers that "
    "know coloured digits; the number of steps and the rate, which decide how far a score can fall, are the lab's",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of the masked layers' weights that are 0 at the end."""
    from tunewright.finished.finished import open_run

    found = {}
    for arm in run.claim.arms:
        tuned = open_run(lab.few(run, arm.name, seed, keep_artefacts=True).folder)
        tower = tuned.adapted.structure.linear_sites()
        weights = [s.weight for s in tower if s.name.startswith("vision_model.") and s.role == "attention"]
        found[arm.name] = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    return found
