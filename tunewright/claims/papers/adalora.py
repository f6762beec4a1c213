"""AdaLoRA learns more than LoRA at the same final budget of ranks."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="adalora",
    says="At the same budget of ranks at the end, ranks that are found by importance learn a task better than LoRA's "
    "even ones.",
    task="topics",
    method=Arm(name="adalora", methods=[{"adalora": {"rank": 12, "target_r": 8}}]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 8}}])],
    metric="target",
    direction="higher",
    smallest=0.01,
    seeds=5,
    budget={"tokens": 16_000},
    rates=(1e-3, 3e-3, 1e-2),
    strengths=(1.0,),
    scales=("real",),
    differs="an encoder of 22M parameters, short queries of ten domains and 16,000 tokens (about 35 steps) instead of "
    "GLUE and question answering over thousands",
)
