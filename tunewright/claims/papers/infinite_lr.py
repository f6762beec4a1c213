"""A rate that stays constant across tasks and is annealed once does better than decaying and re-warming for each."""

from __future__ import annotations

from typing import Any

from tunewright.claims.claim import Arm, Claim


def _stage(name: str, **phases: Any) -> dict[str, Any]:
    return {"name": name, "methods": ["full", {"infinite-lr": {"constant": 0.5, **phases}}]}


STAGES = [
    _stage("task-1", warmup_steps=1, cooldown_steps=6),
    _stage("task-2", warmup_steps=0, cooldown_steps=0),
    _stage("task-3", warmup_steps=0, cooldown_steps=0, anneal_steps=6),
]

CLAIM = Claim(
    paper="infinite-lr",
    says=(
        "Over a stream of data sets, one warm-up, a constant rate and a short anneal at the end beat a cosine "
        "decay with a new warm-up for each."
    ),
    task="sequence",
    method=Arm(name="infinite", methods=["full"], extra={"stages": STAGES}),
    baselines=[Arm(name="cosine", methods=["full"], extra={"train": {"lr_scheduler_type": "cosine"}})],
    metric="target",
    direction="lower",
    smallest=0.02,
    strengths=(1.0,),
    real={"seeds": 5},
    differs=(
        "three kinds of instructions instead of pre-training corpora; the loss is that of the answers to all "
        "three after the last"
    ),
)
