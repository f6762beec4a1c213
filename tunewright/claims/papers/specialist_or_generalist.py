"""General instructions among a broad task's few rows help the task."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.papers import _instructions

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

FEW, MANY, PASSES, SHARE = 60, 480, 8, 0.25
"""Rows of the task, passes over them, and their share of a mixture's tokens."""
ROW = 34
"""About the tokens of a task's row."""

CLAIM = Claim(
    paper="specialist-or-generalist",
    says="Of a broad task (eight kinds of instruction) with 60 rows, a model that learns three times as many tokens of "
    "general instructions beside them has a lower loss on the task's new rows than one that learns the rows alone, as "
    "often.",
    task="induction",
    method=Arm(name="mixed", methods=["full"]),
    baselines=[Arm(name="specialist", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra={"measurement": {"metric": "loss"}},
    scales=("nano",),
    differs="a base of 3.4M parameters and people's short instructions instead of LLaMA-7B and GPT-4's; loss of right "
    "answers instead of accuracy; narrow and factual tasks are not tested; the specialist trained for as many tokens "
    "as the mixture is run beside it and not judged",
)


def loss_of(run: ClaimRun, arm: str, seed: int, count: int) -> float:
    """Loss of the task's new answers, nats a token, with `count` of its rows."""
    parts = rows.induction()
    with open(parts["train"], encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines][:count]
    task = {"path": rows.written(f"few-{count}", {"train": found})["train"], "name": "task"}
    general = {"path": _instructions.general()["train"], "name": "general"}
    alone = {"tokens": PASSES * count * ROW}
    longer = {"tokens": int(PASSES * count * ROW / SHARE)}
    sources, budget = {
        "mixed": ([{**task, "weight": SHARE}, {**general, "weight": 1 - SHARE}], longer),
        "specialist": ([task], alone),
        "as long": ([task], longer),
    }[arm]
    stages = [{"name": "main", "data": {"train": sources}, "methods": ["full"], "budget": budget}]
    named = "specialist" if arm == "as long" else arm
    return float(run.trial(named, seed, data={"validation": None}, stages=stages).tuned.target)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the task's new answers with few rows of it."""
    return {arm: loss_of(run, arm, seed, FEW) for arm in ("mixed", "specialist", "as long")}
