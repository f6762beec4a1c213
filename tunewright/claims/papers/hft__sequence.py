"""Over a sequence of tasks HFT, redrawn for each, ends better on all of them than full fine-tuning."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="hft",
    says=(
        "Training another random half in each round forgets less of the earlier rounds than training everything: "
        "better over all tasks at the end."
    ),
    task="sequence",
    method=Arm(name="hft", methods=["hft"]),
    baselines=[Arm(name="full", methods=["full"])],
    metric="target",
    direction="lower",
    smallest=0.02,
    strengths=(1.0,),
    real={"seeds": 5},
    differs="three small tasks instead of TRACE's eight, judged by the loss of the answers",
)
