"""Whole channels learn a task better than LoRA of as many numbers."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="s2ft",
    says="Dense slices of a tenth of the MLP channels, drawn at random, do a task better than LoRA of about as many "
    "numbers.",
    task="topics",
    method=Arm(name="s2ft", methods=[{"s2ft": {"d_ratio": 0.1}}], rates=(3e-4, 1e-3, 3e-3)),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 8}}], rates=(3e-4, 1e-3, 3e-3))],
    metric="target",
    direction="higher",
    smallest=0.01,
    seeds=5,
    strengths=(1.0,),
    scales=("real",),
    differs="MiniLM-L6 on queries of ten domains, 0.35M numbers against LoRA's 0.33M, instead of language models of 7 "
    "and 8 billion on commonsense",
)
