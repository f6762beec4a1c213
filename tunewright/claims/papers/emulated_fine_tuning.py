"""A large base with a small model's tuning answers better than the small tuned model."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

SMALL = Arm(name="lora", methods=[{"lora": {"rank": 16}}], rates=(3e-4, 1e-3, 3e-3))
UPSCALED = Arm(
    name="emulated",
    methods=[{"lora": {"rank": 16}}],
    rates=(3e-4, 1e-3, 3e-3),
    extra={"models": {"large": "nano-large"}, "after": [{"emulated-fine-tuning": {"large": "large", "beta": 1.0}}]},
)

CLAIM = Claim(
    paper="emulated-fine-tuning",
    says=(
        "Adding what tuning changed in a small model to a larger base while decoding does the task better than the "
        "small tuned model alone."
    ),
    task="intents",
    method=UPSCALED,
    baselines=[SMALL],
    metric="target",
    direction="higher",
    smallest=0.01,
    better_base=("nano-large", "nano"),
    strengths=(0.5, 1.0),
    scales=("nano",),
    differs=(
        "the large base is about twice the small one (the paper: ten times); an exact match, not a judge's "
        "preference; greedy"
    ),
)
