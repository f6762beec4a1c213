"""Adapters train at most 3.6 % of the numbers of full tuning."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.ssf import FULL

CLAIM = Claim(
    paper="bottleneck-adapters",
    says="At the reduction of 16 adapters at both parts of every block, with a new head, are at most 3.6 % of a "
    "model's numbers.",
    task="topics",
    method=Arm(name="houlsby", methods=[{"bottleneck-adapters": {"config": "houlsby"}}]),
    baselines=[FULL.model_copy(update={"rates": None})],
    metric="cost.trainable_parameters",
    direction="lower",
    relative=True,
    smallest=0.964,
    seeds=5,
    rates=(),
    budget={"steps": 2},
    strengths=(1.0,),
    extra={"measurement": {"rows": 16}, "train": {"head": "random"}},
    scales=("real",),
    differs="a count that no training changes; 3.6 % is the paper's for BERT-large",
)
