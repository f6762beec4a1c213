"""Rows of a group chosen as a whole teach the target better than as many rows of the pool at random."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="goracs",
    says=(
        "Training on the group of least transport distance and largest gradients does better on the target than "
        "training on random rows of the pool, for as many tokens."
    ),
    task="selection",
    method=Arm(
        name="goracs",
        methods=["full"],
        extra={"data": {"select": [{"goracs": {"keep": 0.1, "exchanges": 20, "candidates": 10}}]}},
    ),
    baselines=[Arm(name="random", methods=["full"])],
    metric="target",
    direction="lower",
    smallest=0.02,
    seeds=5,
    scales=("nano",),
    differs="an adapted small model and its loss on the target domain instead of recommendations after fine-tuning",
)
