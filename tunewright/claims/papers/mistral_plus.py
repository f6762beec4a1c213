"""Reinforcement of a base model directly keeps more of its general text than a supervised stage before it."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

PPO = {"samples": 4, "max_new_tokens": 12, "reference": "start", "beta": 0.05, "reuse": 2}
REWARDED = ["full", {"ppo": PPO}, {"exact-answer": {"partial": 0.5}}]
WARM = {"name": "supervised", "methods": ["full"], "budget": {"tokens": 8_000}, "train": {"learning_rate": 1e-4}}

CLAIM = Claim(
    paper="mistral-plus",
    says="Reinforcement of the base alone loses less of general text than a supervised stage and then reinforcement, "
    "at the same gain (the paper: eleven general tasks, with fewer toxic answers).",
    task="intents",
    method=Arm(name="direct", methods=REWARDED),
    baselines=[
        Arm(
            name="sft-then-ppo",
            methods=REWARDED,
            extra={"stages": [WARM, {"name": "reinforced", "start": "stages.supervised", "carry": "fold"}]},
        )
    ],
    metric="kept at matched target",
    direction="lower",
    smallest=0.02,
    seeds=5,
    rates=(1e-5, 3e-5),
    scales=("real",),
    differs="a reward by rule instead of a trained one; loss of general text instead of eleven tasks; 135M parameters "
    "instead of 7 billion",
)
