"""IST improves LoRA: a few layers a step, drawn by importance, do better than all of them."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="ist",
    says=(
        "Training the adapters of a quarter of the layers a step, drawn by scores that trials correct, does better "
        "than training all of them."
    ),
    task="intents",
    method=Arm(name="ist", methods=[{"lora": {"rank": 16}}, "ist"]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="target",
    direction="higher",
    smallest=0.01,
    rates=(3e-4, 1e-3, 3e-3),
    redraws=10,
    real={"seeds": 5, "budget": {"tokens": 20_000}},
    differs="a small base has few layers, of which a quarter are one or two",
)
