"""Behind a prompt that is taken away for other texts, a tuned model loses less of them."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

PROMPT = {"promot": {"length": 20, "without": ["quickstart:keep"]}}
STAGES = [
    {"name": "prompt", "budget": {"tokens": 8_000}},
    {"name": "model", "start": "base", "budget": {"tokens": 16_000}},
]
PROMOT = Arm(name="promot", methods=[{"promot": {"length": 20}}], extra={"stages": STAGES})
FULL = Arm(name="full", methods=["full"], extra={"budget": {"tokens": 16_000}})
CLAIM = Claim(
    paper="promot",
    says="Tuned behind a prompt that has learnt the task's format first, and read without it, a model's loss on "
    "general text is lower by at least 0.05 nats a token than that of one that is tuned whole for as many tokens.",
    task="intents",
    method=PROMOT,
    baselines=[FULL],
    metric="kept",
    direction="lower",
    smallest=0.05,
    seeds=5,
    strengths=(1.0,),
    differs="loss on general text in the place of other tasks' examples in context; small causal models instead of mT5 "
    "XXL; the prompt's 8,000 tokens come on top, as the paper's 5,000 steps do",
)
