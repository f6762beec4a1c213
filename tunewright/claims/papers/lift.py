"""LIFT reasons better than full fine-tuning and than LoRA of the same number of parameters."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="lift",
    says=(
        "Training only the entries that are largest after rank reduction beats full fine-tuning and LoRA on "
        "reasoning tasks."
    ),
    task="arithmetic",
    method=Arm(name="lift", methods=[{"lift": {"rank": 16, "filter_rank": 16, "refresh_steps": 50}}]),
    baselines=[
        Arm(name="full", methods=["full"]),
        Arm(name="lora", methods=[{"lora": {"rank": 16}}], rates=(3e-4, 1e-3, 3e-3)),
    ],
    metric="target",
    direction="higher",
    smallest=0.02,
    real={"seeds": 5},
    differs="a small model and procedural problems; masks are drawn every 50 steps, since runs are shorter",
)
