"""LoRA-GA learns more than LoRA for as many tokens."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="lora-ga",
    says="Started from the gradient's singular vectors, LoRA learns a task better for as many tokens than from a "
    "random start.",
    task="topics",
    method=Arm(name="lora-ga", methods=[{"lora-ga": {"rank": 16}}], rates=(1e-4, 3e-4, 1e-3)),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="target",
    direction="higher",
    smallest=0.01,
    seeds=5,
    budget={"tokens": 8_000},
    rates=(1e-3, 3e-3, 1e-2),
    strengths=(1.0,),
    scales=("real",),
    differs="an encoder of 22M parameters and short queries of ten domains, after 8,000 tokens, instead of GSM8K and "
    "GLUE; rank 16 instead of 8; how many steps it saves is not measured",
)
