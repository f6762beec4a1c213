"""LIFT keeps more of the source domain than full fine-tuning and than LoRA, at the same gain."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="lift",
    says=(
        "Training only the entries that are largest after rank reduction retains more of the source domain than "
        "full fine-tuning and LoRA."
    ),
    task="arithmetic",
    method=Arm(name="lift", methods=[{"lift": {"rank": 16, "filter_rank": 16, "refresh_steps": 50}}]),
    baselines=[
        Arm(name="full", methods=["full"]),
        Arm(name="lora", methods=[{"lora": {"rank": 16}}], rates=(3e-4, 1e-3, 3e-3)),
    ],
    metric="kept at matched target",
    direction="lower",
    smallest=0.02,
    at=0.9,
    real={"seeds": 5},
    differs="what is kept is the loss on general text, not scores on commonsense tasks; masks are drawn every 50 steps",
)
