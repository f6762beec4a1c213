"""Taken apart into low rank and few bits, an encoder learns a task better than QLoRA does at as many bits."""

from __future__ import annotations

from typing import Any

from tunewright.claims.claim import Arm, Claim

FORMAT: dict[str, Any] = {"bits": [2], "scale_bits": [8], "block_sizes": [16]}
"""One format for all layers, of 2.51 bits a weight."""
SHARED_OUT: dict[str, Any] = {"bits": [2, 3], "scale_bits": [8], "block_sizes": [16, 32, 64]}
BITS = 2.52
"""A little above, since a layer's last bytes and its smallest scale are counted too."""
LOW: dict[str, Any] = {"rank": 8, "alpha": 16, "average_bits": BITS}
LQ = Arm(name="lq-lora", methods=[{"lq-lora": {**LOW, **SHARED_OUT, "iterations": 5}}])

CLAIM = Claim(
    paper="lq-lora",
    says="With its blocks in 2.5 bits a weight, an encoder whose weights were taken apart into a low-rank part and a "
    "quantised one, bits shared out among layers, is at least a point more accurate after tuning than one that was "
    "quantised as it is, in one format for all, with a low-rank part of the same rank that starts at zero (QLoRA).",
    task="topics",
    method=LQ,
    baselines=[Arm(name="qlora", methods=[{"lq-lora": {**LOW, **FORMAT, "iterations": 0}}])],
    metric="target",
    direction="higher",
    smallest=0.01,
    seeds=5,
    rates=(1e-3, 3e-3),
    strengths=(1.0,),
    scales=("nano",),
    differs="an encoder of 2.6M parameters and queries of ten domains instead of RoBERTa-large on GLUE and LLaMA-2; "
    "rank 8 instead of 64; errors are not weighted by gradients; six candidates, five turns at most",
)
