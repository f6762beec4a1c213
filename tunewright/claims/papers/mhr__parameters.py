"""Routing blocks of a layer apart costs hardly more numbers than routing the layer as a whole."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="mhr",
    says="With eight pairs a layer and eight blocks, at most 5 % more numbers train than with one block (Poly).",
    task="intents",
    method=Arm(name="mhr", methods=[{"mhr": {"heads": 8}}]),
    baselines=[Arm(name="poly", methods=[{"mhr": {"heads": 1}}])],
    metric="cost.trainable_parameters",
    direction="lower",
    relative=True,
    smallest=-0.05,
    seeds=5,
    rates=(),
    budget={"steps": 2},
    strengths=(1.0,),
    extra={"measurement": {"rows": 16, "drift_sequences": 4}},
    scales=("nano", "real"),
    differs="a count that no training changes, with one task; the paper's budgets are compared over many",
)
