"""Made by a network, virtual tokens learn sooner."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="p-tuning",
    says="After a third of the tokens the loss on rows of the task is lower where a network makes the virtual tokens.",
    task="intents",
    method=Arm(name="p-tuning", methods=[{"p-tuning": {"num_virtual_tokens": 20}}], rates=(1e-3, 3e-3, 1e-2)),
    baselines=[
        Arm(name="prompt", methods=[{"prompt-tuning": {"length": 20, "start": "random"}}], rates=(1e-2, 3e-2, 1e-1))
    ],
    metric="target",
    direction="lower",
    smallest=0.02,
    seeds=5,
    budget={"tokens": 5_000},
    strengths=(1.0,),
    extra={"measurement": {"metric": "loss"}},
    scales=("nano",),
    differs="the mechanism that the paper gives (tokens that train along with one another), on a small base",
)
