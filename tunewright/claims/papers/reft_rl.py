"""PPO on the same questions answers more of them than a supervised stage, and than one that goes on as long."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

WARM = {"name": "warm-up", "methods": ["full"], "budget": {"tokens": 30_000}, "train": {"learning_rate": 3e-3}}
LATER = {"start": "stages.warm-up", "carry": "fold", "budget": {"tokens": 15_000}}
PPO = {"samples": 4, "max_new_tokens": 24, "reference": "start", "beta": 0.05, "value_weight": 5.0, "reuse": 2}

CLAIM = Claim(
    paper="reft-rl",
    says="After a supervised start, PPO on the same questions, rewarded by whether the answer is right, answers more "
    "new questions than going on with supervision over as many questions (the paper: GSM8K, MathQA, SVAMP).",
    task="arithmetic",
    method=Arm(
        name="reft",
        methods=["full", {"ppo": PPO}, {"numeric-answer": {"parsed": 0.1}}],
        extra={"stages": [WARM, {"name": "reinforced", "train": {"learning_rate": 1e-4}, **LATER}]},
    ),
    baselines=[
        Arm(name="sft", methods=["full"], extra={"stages": [WARM, {"name": "supervised", **LATER}]}),
    ],
    metric="target",
    direction="higher",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    extra={"train": {"learning_rate": 1e-3}},
    differs="procedural problems whose one right trace is the answer instead of GSM8K; a base of 3.4M parameters; the "
    "last number alone is rewarded, the whole answer is judged; 15 thousand tokens of questions, each sampled four "
    "times and trained on twice, instead of 300 epochs; rates are fixed, none is chosen",
)
