"""LoReFT trains fifteen times fewer numbers than LoRA."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="loreft",
    says="At the paper's rank 8 in every block at least 15 times fewer numbers train than with LoRA of rank 32 on "
    "every linear layer.",
    task="intents",
    method=Arm(name="loreft", methods=["loreft"]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 32}}])],
    metric="cost.trainable_parameters",
    direction="lower",
    relative=True,
    smallest=0.9333,
    seeds=5,
    rates=(),
    budget={"steps": 2},
    strengths=(1.0,),
    extra={"measurement": {"rows": 16, "drift_sequences": 4}},
    differs="a count that no training changes; rank 32 is that of the LoRA that the paper compares with",
)
