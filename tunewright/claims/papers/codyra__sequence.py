"""Over a sequence of tasks CoDyRA ends better on all of them than LoRA of fixed rank that is merged after each."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="codyra",
    says=(
        "Adapters that shrink to the rank a task needs and are merged after it interfere less: better over all "
        "tasks than LoRA merged the same way."
    ),
    task="sequence",
    method=Arm(name="codyra", methods=[{"codyra": {"rank": 16}}]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="target",
    direction="lower",
    smallest=0.02,
    strengths=(1.0,),
    rates=(3e-4, 1e-3, 3e-3),
    real={"seeds": 5},
    differs=(
        "a language model and three small tasks, judged by the loss of the answers, instead of a "
        "vision-language model and eleven data sets"
    ),
)
