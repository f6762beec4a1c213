"""Copies of the least important blocks learn a domain and lose less of what the base knew than full fine-tuning."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="adept",
    says=(
        "Continued pre-training of copied blocks at rates by importance keeps more of the general domain than "
        "full-parameter continued pre-training at the same gain."
    ),
    task="domain",
    method=Arm(name="adept", methods=[{"adept": {"share": 0.25}}], rates=(3e-4, 1e-3, 3e-3)),
    baselines=[Arm(name="full", methods=["full"])],
    metric="kept.general at matched target",
    direction="lower",
    smallest=0.02,
    real={"seeds": 5},
    differs="one block in four is copied; German law instead of mathematics and medicine",
)
