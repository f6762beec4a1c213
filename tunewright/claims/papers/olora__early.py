"""OLoRA learns faster than LoRA in the first steps."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="olora",
    says="After ten steps, each at the rate that does best then, the loss is lower than LoRA's.",
    task="domain",
    method=Arm(name="olora", methods=[{"olora": {"rank": 16}}]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="target",
    direction="lower",
    smallest=0.01,
    seeds=5,
    budget={"steps": 10},
    rates=(3e-4, 1e-3, 3e-3),
    strengths=(1.0,),
    scales=("nano",),
    differs="plain text of another domain on a small language model; the paper shows curves of the training loss",
)
