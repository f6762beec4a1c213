"""Core-tuning classifies better than plain cross-entropy."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="core-tuning",
    says=(
        "Cross-entropy on mixed features with a focal supervised contrast beats plain cross-entropy in image "
        "classification."
    ),
    task="digits",
    method=Arm(name="core-tuning", methods=["full", "core-tuning"]),
    baselines=[Arm(name="cross-entropy", methods=["full"])],
    metric="target",
    direction="higher",
    smallest=0.005,
    scales=("nano",),
    differs="a small classifier of digits instead of a contrastive one of photographs",
)
