"""Tuned at 2.75 bits a weight, LQ-LoRA is as good as QLoRA at 4."""

from __future__ import annotations

from typing import Any

from tunewright.claims.claim import Arm, Claim

RANK = 16
PARTS: dict[str, Any] = {
    "rank": RANK,
    "alpha": 2.0 * RANK,
    "average_bits": 2.75,
    "bits": [2, 3, 4],
    "scale_bits": [8],
    "block_sizes": [32, 64],
    "iterations": 10,
}
RATES = (3e-4, 1e-3, 3e-3)
CLAIM = Claim(
    paper="lq-lora",
    says="With the base in 2.75 bits a weight on average, an encoder tuned by LQ-LoRA is at most 2 points of accuracy "
    "below one tuned by QLoRA on a base in 4.1 bits.",
    task="topics",
    method=Arm(name="lq-lora", methods=[{"lq-lora": PARTS}]),
    baselines=[Arm(name="qlora", methods=[{"qlora": {"rank": RANK, "alpha": 2.0 * RANK}}])],
    metric="target",
    direction="higher",
    smallest=-0.02,
    seeds=5,
    rates=RATES,
    strengths=(1.0,),
    scales=("real",),
    differs="an encoder of 22M parameters and short queries of ten domains instead of LLaMA-2 and chat; rank 16 of a "
    "width of 384; six candidates a matrix and ten turns; errors are not weighted; embeddings are whole",
)
