"""LoHa does better than LoRA with as many numbers."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="loha",
    says="With as many trained numbers as LoRA of rank 16, an entry-wise product of two changes is right more often.",
    task="topics",
    method=Arm(name="loha", methods=[{"loha": {"rank": 8}}], rates=(1e-3, 3e-3, 1e-2)),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}], rates=(3e-4, 1e-3, 3e-3))],
    metric="target",
    direction="higher",
    smallest=0.005,
    seeds=5,
    strengths=(1.0,),
    real={"seeds": 3},
    differs="an adapter on a small encoder instead of federated image classifiers trained from nothing",
)
