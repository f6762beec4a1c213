"""(IA)^3 trains fifty times fewer numbers than LoRA."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="ia3",
    says="Fifty times fewer numbers train than with LoRA of rank 16 on every linear layer.",
    task="intents",
    method=Arm(name="ia3", methods=["ia3"]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="cost.trainable_parameters",
    direction="lower",
    relative=True,
    smallest=0.98,
    seeds=5,
    rates=(),
    budget={"steps": 2},
    strengths=(1.0,),
    extra={"measurement": {"rows": 16, "drift_sequences": 4}},
    differs="a count that no training changes; the paper's LoRA has rank 4 on fewer layers",
)
