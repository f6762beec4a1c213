"""DSEE trains a small share of a model's numbers."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="dsee",
    says="At least 95 % fewer numbers train than in full fine-tuning.",
    task="topics",
    method=Arm(name="dsee", methods=["dsee"]),
    baselines=[Arm(name="full", methods=["full"])],
    metric="cost.trainable_parameters",
    direction="lower",
    relative=True,
    smallest=0.95,
    seeds=5,
    rates=(),
    budget={"steps": 2},
    strengths=(1.0,),
    extra={"measurement": {"rows": 16, "drift_sequences": 4}},
    scales=("real",),
    differs="a count that no training changes; every linear layer inside the blocks has a change, and a model of width "
    "384 has more of it than one of 768, where the paper's half a percent is of query and value alone",
)
