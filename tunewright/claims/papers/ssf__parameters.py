"""SSF trains less than a hundredth of the numbers of full tuning."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.ssf import FULL

CLAIM = Claim(
    paper="ssf",
    says="A scale and a shift behind every operation, with a new head, are less than a hundredth of a model's numbers.",
    task="topics",
    method=Arm(name="ssf", methods=["ssf"]),
    baselines=[FULL.model_copy(update={"rates": None})],
    metric="cost.trainable_parameters",
    direction="lower",
    relative=True,
    smallest=0.99,
    seeds=5,
    rates=(),
    budget={"steps": 2},
    strengths=(1.0,),
    extra={"measurement": {"rows": 16}, "train": {"head": "random"}},
    scales=("real",),
    differs="a count that no training changes; the paper has 0.28 M of 86 M in a ViT-B",
)
