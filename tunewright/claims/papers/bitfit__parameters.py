"""BitFit trains a thousandth of an encoder."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="bitfit",
    says="Biases and a new head are at most 0.2 % of an encoder's parameters.",
    task="topics",
    method=Arm(name="bitfit", methods=["bitfit"]),
    baselines=[Arm(name="full", methods=["full"])],
    metric="cost.trainable_parameters",
    direction="lower",
    relative=True,
    smallest=0.998,
    seeds=5,
    rates=(),
    budget={"steps": 2},
    strengths=(1.0,),
    extra={"measurement": {"rows": 16, "drift_sequences": 4}},
    scales=("real",),
    differs="a count that no training changes; the paper has 0.08 % of BERT-large without the head, and this encoder "
    "is narrower, so that vectors weigh more beside matrices",
)
