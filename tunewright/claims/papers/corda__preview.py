"""CorDA's instruction-previewed mode learns better than LoRA and than full fine-tuning."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="corda",
    says=(
        "LoRA started from the components that the task's own inputs use most surpasses full fine-tuning and LoRA "
        "on the task."
    ),
    task="arithmetic",
    method=Arm(
        name="corda", methods=[{"corda": {"rank": 16, "mode": "preview", "data": "train"}}], rates=(3e-4, 1e-3, 3e-3)
    ),
    baselines=[
        Arm(name="full", methods=["full"]),
        Arm(name="lora", methods=[{"lora": {"rank": 16}}], rates=(3e-4, 1e-3, 3e-3)),
    ],
    metric="target",
    direction="higher",
    smallest=0.02,
    real={"seeds": 5},
    differs="rank 16 instead of 128; procedural problems instead of mathematics and code",
)
