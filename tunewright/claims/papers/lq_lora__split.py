"""At as few bits, a base whose error the low-rank part takes up is better to tune than one that is only rounded."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.lq_lora import PARTS, RATES

CLAIM = Claim(
    paper="lq-lora",
    says="With the base in 2.75 bits a weight on average, an encoder tuned by LQ-LoRA is at least 1 point of accuracy "
    "above one whose low-rank part starts at zero beside the rounded weights, of as many bits.",
    task="topics",
    method=Arm(name="lq-lora", methods=[{"lq-lora": PARTS}]),
    baselines=[Arm(name="rounded", methods=[{"lq-lora": {**PARTS, "iterations": 0}}])],
    metric="target",
    direction="higher",
    smallest=0.01,
    seeds=5,
    rates=RATES,
    strengths=(1.0,),
    scales=("real",),
    differs="an encoder of 22M parameters and short queries of ten domains instead of LLaMA-2 and chat; rank 16 of a "
    "width of 384; six candidates a matrix and ten turns; errors are not weighted; embeddings are whole",
)
