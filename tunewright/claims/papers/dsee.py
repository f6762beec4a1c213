"""A pruned base with low-rank and sparse changes keeps up with LoRA on the whole base."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="dsee",
    says="With a fifth of the weights pruned, low-rank plus sparse changes are at most 2 % less accurate than LoRA on "
    "the whole base.",
    task="topics",
    method=Arm(name="dsee", methods=["dsee"]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="target",
    direction="higher",
    smallest=-0.02,
    seeds=5,
    budget={"tokens": 8_000},
    rates=(1e-3, 3e-3, 1e-2),
    strengths=(1.0,),
    scales=("real",),
    differs="an encoder of 22M parameters and short queries of ten domains, after 8,000 tokens, instead of GLUE; no "
    "heads are pruned, and no operations are saved by zeros in a dense product",
)
