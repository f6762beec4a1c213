"""CoDyRA keeps more than LoRA of fixed rank at the same gain."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="codyra",
    says=(
        "Low-rank pieces whose gates shrink to the rank that a task needs keep more of what was pre-trained than "
        "LoRA of fixed rank, at the same gain."
    ),
    task="intents",
    method=Arm(name="codyra", methods=[{"codyra": {"rank": 16}}]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="kept at matched target",
    direction="lower",
    smallest=0.02,
    at=0.9,
    rates=(3e-4, 1e-3, 3e-3),
    real={"seeds": 5, "budget": {"tokens": 20_000}},
    differs="a language model and one task instead of a vision-language model and a sequence of them",
)
