"""Four experts of MoSA hold hardly more numbers than one adapter."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.mosa import WHOLE

CLAIM = Claim(
    paper="mosa",
    says="Since experts share no entry, four of them train at most 3 % more numbers than one adapter of their width "
    "(the biases that each has of its own); four whole adapters would train four times as many.",
    task="intents",
    method=Arm(name="mosa", methods=["mosa"]),
    baselines=[WHOLE],
    metric="cost.trainable_parameters",
    direction="lower",
    relative=True,
    smallest=-0.03,
    seeds=5,
    rates=(),
    budget={"steps": 2},
    strengths=(1.0,),
    extra={"measurement": {"rows": 16, "drift_sequences": 4}},
    scales=("nano",),
    differs="a text encoder; while training alone: what is kept at the end is one adapter's size exactly (its tests)",
)
