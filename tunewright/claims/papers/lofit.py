"""LoFiT does no worse than LoRA."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="lofit",
    says="Vectors at a few heads do not do worse than LoRA, though at least 20 times fewer numbers train.",
    task="intents",
    method=Arm(name="lofit", methods=[{"lofit": {"heads": 4}}], rates=(3e-3, 1e-2, 3e-2)),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}], rates=(3e-4, 1e-3, 3e-3))],
    metric="target",
    direction="higher",
    smallest=-0.02,
    seeds=5,
    real={"seeds": 5, "budget": {"tokens": 20_000}},
    differs="a small base, of which 3 % of the heads is less than one: four are taken; labelled rows of one task "
    "instead of truthfulness and multi-hop reasoning",
)
