"""LoFiT trains twenty times fewer numbers than LoRA."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="lofit",
    says="With a vector at 3 % of the heads, at least 20 times fewer numbers train than with LoRA on every linear "
    "layer.",
    task="intents",
    method=Arm(name="lofit", methods=[{"lofit": {"scale_steps": 4}}]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="cost.trainable_parameters",
    direction="lower",
    relative=True,
    smallest=0.95,
    seeds=5,
    rates=(),
    budget={"steps": 2},
    strengths=(1.0,),
    extra={"measurement": {"rows": 16, "drift_sequences": 4}},
    differs="a count that no training changes; the paper's LoRA has ranks chosen for its results, from 8 to 32",
)
