"""On linear layers a core between two factors does better than two factors alone."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="flora-tucker",
    says="On linear layers Tucker's form is right more often than LoRA of the same rank, by half a point.",
    task="topics",
    method=Arm(name="tucker", methods=[{"flora-tucker": {"mode_ranks": [16, 16, 1, 1]}}]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="target",
    direction="higher",
    smallest=0.005,
    seeds=5,
    rates=(3e-4, 1e-3, 3e-3),
    strengths=(1.0,),
    scales=("real",),
    differs="MiniLM-L6 on queries of ten domains instead of DeBERTa on GLUE; 256 numbers a layer more than LoRA",
)
