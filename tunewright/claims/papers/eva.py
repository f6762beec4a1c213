"""EVA learns more than LoRA for as many tokens."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="eva",
    says="Started along the directions of most variance of its inputs, and with ranks by variance explained, LoRA "
    "learns a task better for as many tokens than from a random start.",
    task="topics",
    method=Arm(name="eva", methods=[{"eva": {"rank": 16}}]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="target",
    direction="higher",
    smallest=0.01,
    seeds=5,
    budget={"tokens": 8_000},
    rates=(1e-3, 3e-3, 1e-2),
    strengths=(1.0,),
    scales=("real",),
    differs="an encoder of 22M parameters and short queries of ten domains, after 8,000 tokens; one task",
)
