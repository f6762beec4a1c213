"""CorDA's knowledge-preserving mode forgets less than LoRA at the same gain."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="corda",
    says=(
        "LoRA started from the components that general text uses least keeps more of it than plain LoRA, at the "
        "same gain."
    ),
    task="intents-calibrated",
    method=Arm(name="corda", methods=[{"corda": {"rank": 16, "mode": "keep", "data": "calibration"}}]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="kept.general at matched target",
    direction="lower",
    smallest=0.02,
    at=0.9,
    rates=(3e-4, 1e-3, 3e-3),
    real={"seeds": 5, "budget": {"tokens": 20_000}},
    differs=(
        "calibrated on a few thousand tokens of general text (web pages, articles), judged on other articles; "
        "rank 16 instead of 128"
    ),
)
