"""EWC on the low-rank change keeps more of general text than LoRA alone, at the same gain."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="e2wm",
    says="A Fisher-weighted penalty on the low-rank change keeps general language modelling while the task is learnt.",
    task="intents-calibrated",
    method=Arm(
        name="ewc-lora",
        methods=[{"lora": {"rank": 16}}, {"e2wm": {"coefficient": 1000.0, "samples": 128, "data": "calibration"}}],
    ),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="kept.general at matched target",
    direction="lower",
    smallest=0.02,
    at=0.9,
    rates=(3e-4, 1e-3, 3e-3),
    real={"seeds": 5, "budget": {"tokens": 20_000}},
    differs=(
        "bank customers' messages instead of a simulator; a true Fisher, on other general text than that whose "
        "loss is measured"
    ),
)
