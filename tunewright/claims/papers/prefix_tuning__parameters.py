"""A prefix is less than a hundredth of a model's numbers."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.ssf import FULL

CLAIM = Claim(
    paper="prefix-tuning",
    says="Ten keys and values in every layer, with a new head, are less than a hundredth of a model's numbers.",
    task="topics",
    method=Arm(name="prefix", methods=[{"prefix-tuning": {"num_virtual_tokens": 10}}]),
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
    differs="a count that no training changes; the paper counts 0.1 % of GPT-2 medium, without a head",
)
