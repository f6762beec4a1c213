"""LoKr trains a fraction of LoRA's numbers."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="lokr",
    says="Fewer than a fifth of the numbers of a LoRA of rank 16 train.",
    task="intents",
    method=Arm(name="lokr", methods=[{"lokr": {"rank": 8}}]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="cost.trainable_parameters",
    direction="lower",
    relative=True,
    smallest=0.8,
    seeds=5,
    rates=(),
    budget={"steps": 2},
    strengths=(1.0,),
    extra={"measurement": {"rows": 16, "drift_sequences": 4}},
    differs="a count that no training changes; KronA compares at equal counts",
)
