"""SNELLA does better than LoRA."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="snella",
    says="Kernelised sparse changes, whose entries compete in and between layers, are right at least half a point more "
    "often than LoRA of the same rank (the paper: 1.8 points above LoRA placed by sensitivity on FGVC).",
    task="topics",
    method=Arm(name="snella", methods=["snella"], rates=(1e-3, 3e-3, 1e-2)),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 32}}], rates=(3e-4, 1e-3, 3e-3))],
    metric="target",
    direction="higher",
    smallest=0.005,
    seeds=5,
    strengths=(1.0,),
    scales=("nano", "real"),
    differs="a text classifier of ten topics in the place of fine-grained pictures; no dropout, drop-path or average "
    "of weights on either side",
)
