"""Pairs and single entries where a task is sensitive do it better than the same in the places of a draw."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

RATES = (3e-4, 1e-3, 3e-3)
CLAIM = Claim(
    paper="spt",
    says="With the same budget of trained numbers, low-rank pairs and single entries where pictures of the task are "
    "sensitive do it better than LoRA on every layer.",
    task="digits",
    method=Arm(name="spt", methods=[{"spt": {"density": 0.05, "rank": 4}}], rates=RATES),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 2}}], rates=RATES)],
    metric="target",
    direction="higher",
    smallest=0.01,
    seeds=5,
    strengths=(1.0,),
    scales=("nano",),
    differs="a ViT of six blocks on turned digits instead of ViT-B/16 on FGVC and VTAB-1k; LoRA's rank is the one "
    "whose count of numbers is next to the budget",
)
