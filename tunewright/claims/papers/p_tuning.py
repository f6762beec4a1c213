"""Virtual tokens that a network makes learn more than those of a table."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="p-tuning",
    says="Made by a small network, as many virtual tokens end at a higher target than trained one by one.",
    task="intents",
    method=Arm(name="p-tuning", methods=[{"p-tuning": {"num_virtual_tokens": 20}}], rates=(1e-3, 3e-3, 1e-2)),
    baselines=[
        Arm(name="prompt", methods=[{"prompt-tuning": {"length": 20, "start": "random"}}], rates=(1e-2, 3e-2, 1e-1))
    ],
    metric="target",
    direction="higher",
    smallest=0.02,
    seeds=5,
    strengths=(1.0,),
    scales=("nano",),
    differs="a small causal base and one task of twelve topics; tokens before the row, where the paper has templates",
)
