"""With the bits and ranks that its gates choose, a low-rank change is about as good as LoRA."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="bayesian-lora",
    says="A low-rank change whose bits and ranks are learnt is at most 2 % less accurate than LoRA of the same rank at "
    "first.",
    task="topics",
    method=Arm(name="bayesian-lora", methods=[{"bayesian-lora": {"rank": 8}}]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 8}}])],
    metric="target",
    direction="higher",
    smallest=-0.02,
    seeds=5,
    budget={"tokens": 16_000},
    rates=(1e-3, 3e-3, 1e-2),
    strengths=(1.0,),
    scales=("real",),
    differs="an encoder of 22M parameters and short queries of ten domains in the place of GLUE and DeBERTa; the "
    "change alone is rounded, so that no operations are saved",
)
