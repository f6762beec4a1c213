"""LoKr does no worse than LoRA."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="lokr",
    says="A Kronecker product does no worse than LoRA of rank 16 by more than a point, with fewer numbers.",
    task="topics",
    method=Arm(name="lokr", methods=[{"lokr": {"rank": 8}}], rates=(1e-3, 3e-3, 1e-2)),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}], rates=(3e-4, 1e-3, 3e-3))],
    metric="target",
    direction="higher",
    smallest=-0.01,
    seeds=5,
    strengths=(1.0,),
    real={"seeds": 3},
    differs="a small encoder and ten domains instead of GLUE on T5",
)
