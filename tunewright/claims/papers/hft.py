"""HFT forgets less than full fine-tuning, and than LoRA, at the same gain."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="hft",
    says=(
        "Training a random half of the matrices loses less of what the model knew than training all of them, at "
        "the same gain; here beside LoRA too."
    ),
    task="intents",
    method=Arm(name="hft", methods=["hft"]),
    baselines=[
        Arm(name="full", methods=["full"]),
        Arm(name="lora", methods=[{"lora": {"rank": 16}}], rates=(3e-4, 1e-3, 3e-3)),
    ],
    metric="kept at matched target",
    direction="lower",
    smallest=0.02,
    at=0.9,
    real={"seeds": 5, "budget": {"tokens": 20_000}, "rates": (3e-5, 1e-4, 3e-4)},
    differs=(
        "one task instead of a sequence of rounds; forgetting is the loss on general text, not scores on benchmarks"
    ),
)
