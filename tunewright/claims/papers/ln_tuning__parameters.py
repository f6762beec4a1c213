"""LN tuning trains less than a thousandth of an encoder."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="ln-tuning",
    says="Norms and a new head are at most 0.1 % of an encoder's parameters.",
    task="topics",
    method=Arm(name="ln-tuning", methods=["ln-tuning"]),
    baselines=[Arm(name="full", methods=["full"])],
    metric="cost.trainable_parameters",
    direction="lower",
    relative=True,
    smallest=0.999,
    seeds=5,
    rates=(),
    budget={"steps": 2},
    strengths=(1.0,),
    extra={"measurement": {"rows": 16, "drift_sequences": 4}},
    scales=("real",),
    differs="a count that no training changes; a narrow encoder with a new head, where the paper has a language model "
    "of 7 and 13 billion parameters",
)
