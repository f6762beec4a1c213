"""Re-warming and re-decaying the rate adapts to a new domain better than a constant rate."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="rewarm-redecay-replay",
    says=(
        "Warming the rate up again and decaying it over the new data adapts a pre-trained model better than a "
        "constant rate (the paper's first part)."
    ),
    task="domain",
    method=Arm(name="rewarm", methods=["full", {"rewarm-redecay-replay": {"warmup": 0.05, "replay": 0.0}}]),
    baselines=[
        Arm(name="constant", methods=["full"], extra={"train": {"lr_scheduler_type": "constant", "warmup_steps": 0}})
    ],
    metric="target",
    direction="lower",
    smallest=0.02,
    strengths=(1.0,),
    real={"seeds": 5},
    differs=(
        "both choose their rate, where the paper's constant one is that of the end of pre-training; training "
        "from scratch is not tested"
    ),
)
