"""LoReFT does no worse than LoRA."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="loreft",
    says="Editing the ends of prompts alone does not do worse than LoRA on a task that is answered in a few words.",
    task="intents",
    method=Arm(name="loreft", methods=[{"loreft": {"rank": 8}}], rates=(1e-3, 3e-3, 1e-2)),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}], rates=(3e-4, 1e-3, 3e-3))],
    metric="target",
    direction="higher",
    smallest=-0.02,
    seeds=5,
    real={"seeds": 5, "budget": {"tokens": 20_000}},
    differs="a small base, one task",
)
