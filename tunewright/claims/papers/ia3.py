"""(IA)^3 does no worse than LoRA."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="ia3",
    says="Factors on keys, values and inner units alone do no worse than LoRA by more than a point.",
    task="topics",
    method=Arm(name="ia3", methods=["ia3"], rates=(3e-3, 1e-2, 3e-2)),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}], rates=(3e-4, 1e-3, 3e-3))],
    metric="target",
    direction="higher",
    smallest=-0.01,
    seeds=5,
    strengths=(1.0,),
    real={"seeds": 3},
    differs="a small encoder and ten domains instead of T0 on few-shot tasks; LoRA is the baseline",
)
