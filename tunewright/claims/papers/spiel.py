"""SpIEL learns instructions better than LoRA."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="spiel",
    says=(
        "A fixed number of differences a weight, at places that follow the gradient, is often superior to LoRA in "
        "instruction tuning."
    ),
    task="induction",
    method=Arm(name="spiel", methods=[{"spiel": {"density": 0.05}}], rates=(3e-4, 1e-3, 3e-3)),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}], rates=(3e-4, 1e-3, 3e-3))],
    metric="target",
    direction="higher",
    smallest=0.01,
    redraws=20,
    real={"seeds": 5, "budget": {"tokens": 20_000}},
    differs=(
        "many small tasks instead of open instructions; parameters are near LoRA's (5 % of the model), not "
        "equal to the last one"
    ),
)
