"""DoRA does better than LoRA."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="dora",
    says="With equal ranks and equal tuning, DoRA is right more often than LoRA.",
    task="topics",
    method=Arm(name="dora", methods=[{"dora": {"rank": 16}}], rates=(3e-4, 1e-3, 3e-3)),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}], rates=(3e-4, 1e-3, 3e-3))],
    metric="target",
    direction="higher",
    smallest=0.005,
    seeds=5,
    strengths=(1.0,),
    real={"seeds": 3},
    differs="a small encoder and ten domains instead of commonsense reasoning on LLaMA",
)
