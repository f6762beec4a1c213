"""VeRA trains ten times fewer numbers than LoRA."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="vera",
    says="Ten times fewer numbers train than with LoRA of rank 16 on the same layers.",
    task="intents",
    method=Arm(name="vera", methods=[{"vera": {"rank": 256}}]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="cost.trainable_parameters",
    direction="lower",
    relative=True,
    smallest=0.9,
    seeds=5,
    rates=(),
    budget={"steps": 2},
    strengths=(1.0,),
    extra={"measurement": {"rows": 16, "drift_sequences": 4}},
    differs="a count that no training changes; every linear layer of a small model",
)
