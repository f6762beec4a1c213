"""HFT takes less time per step than full fine-tuning."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="hft",
    says=(
        "Training half of the matrices takes about 30 % less training time than full fine-tuning; tested for at "
        "least 10 %."
    ),
    task="intents",
    method=Arm(name="hft", methods=["hft"]),
    baselines=[Arm(name="full", methods=["full"])],
    metric="seconds per step",
    direction="lower",
    relative=True,
    smallest=0.1,
    rates=(),
    strengths=(1.0,),
    extra={"evaluation": {"rows": 16, "drift_sequences": 4}},
    real={"seeds": 5, "budget": {"steps": 20}},
    differs="a processor instead of accelerators; to be run alone on the machine, with --workers 1",
)
