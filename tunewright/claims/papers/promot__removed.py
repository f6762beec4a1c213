"""A prompt that is taken away leaves other texts as they were."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.promot import PROMPT

CLAIM = Claim(
    paper="promot",
    says="After the first stage, general text that is read without the prompt has a loss that is lower by at least "
    "0.05 nats a token than behind a prompt of the same length that stays.",
    task="intents",
    method=Arm(name="removed", methods=[PROMPT]),
    baselines=[
        Arm(name="stays", methods=[{"prompt-tuning": {"length": 20}}], extra={"train": {"learning_rate": 3e-2}})
    ],
    metric="kept",
    direction="lower",
    smallest=0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="the first stage alone, which changes no weight: what is left for the second is its own",
)
