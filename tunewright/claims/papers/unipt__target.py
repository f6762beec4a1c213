"""UniPT learns no worse than LoRA."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="unipt",
    says="The side network keeps up with tuning inside the model: not more than 1 % accuracy behind LoRA.",
    task="topics",
    method=Arm(name="unipt", methods=["unipt"]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="target",
    direction="higher",
    smallest=-0.01,
    strengths=(1.0,),
    rates=(3e-4, 1e-3, 3e-3),
    real={"seeds": 5},
    differs="a text classifier instead of vision-language retrieval; LoRA stands for tuning inside the model",
)
