"""OLoRA does better than LoRA."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="olora",
    says="Started from an orthonormal basis, LoRA is right more often than from its own start.",
    task="topics",
    method=Arm(name="olora", methods=[{"olora": {"rank": 16}}], rates=(1e-4, 3e-4, 1e-3)),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}], rates=(3e-4, 1e-3, 3e-3))],
    metric="target",
    direction="higher",
    smallest=0.005,
    seeds=5,
    strengths=(1.0,),
    real={"seeds": 3},
    differs="a small encoder and ten domains instead of five language models of 1 to 7 billion weights",
)
