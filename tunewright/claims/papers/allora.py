"""ALLoRA learns better than LoRA, with and without dropout, in few steps."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="allora",
    says=(
        "Steps that are long while a row of the change is near zero, and no dropout or scale, give better accuracy "
        "than LoRA when steps are few."
    ),
    task="intents",
    method=Arm(name="allora", methods=[{"allora": {"rank": 16}}]),
    baselines=[
        Arm(name="lora", methods=[{"lora": {"rank": 16}}]),
        Arm(name="lora-dropout", methods=[{"lora": {"rank": 16, "dropout": 0.05}}]),
    ],
    metric="target",
    direction="higher",
    smallest=0.01,
    budget={"steps": 50},
    rates=(3e-4, 1e-3, 3e-3),
    real={"seeds": 5, "budget": {"steps": 50}},
    differs="the row's length is that of B's row: the paper's own equation was not read",
)
