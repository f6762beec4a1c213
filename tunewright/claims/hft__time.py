"""HFT takes less time a step than full fine-tuning."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="hft",
    says="Training half of the matrices takes about 30 % less training time than full fine-tuning; tested for at least 10 %.",
    task="intents",
    method=Arm(name="hft", methods=["hft"]),
    baselines=[Arm(name="full", methods=["full"])],
    metric="seconds a step",
    direction="lower",
    relative=True,
    smallest=0.1,
    real={"seeds": 5, "budget": {"tokens": 20_000}, "rates": (3e-5, 1e-4, 3e-4)},
    differs="a processor instead of accelerators; runs side by side in a pool, so that seconds are those of a busy machine, alike for both",
)
