"""LoRA makes intruder dimensions, full fine-tuning does not."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="intruder-dimensions",
    says=(
        "Among the leading singular directions of the tuned weights, LoRA leaves more that resemble no direction "
        "of the base than full fine-tuning."
    ),
    task="intents",
    method=Arm(name="lora", methods=[{"lora": {"rank": 16}}], rates=(3e-4, 1e-3, 3e-3)),
    baselines=[Arm(name="full", methods=["full"])],
    metric="probe.intruder-dimensions.intruders_a_matrix",
    direction="higher",
    smallest=0.1,
    extra={"measure": ["intruder-dimensions"]},
    real={"seeds": 5, "budget": {"tokens": 20_000}, "rates": (3e-5, 1e-4, 3e-4)},
    differs=(
        "counted among the ten leading directions of every matrix; both at the rate that learns best, not at equal loss"
    ),
)
