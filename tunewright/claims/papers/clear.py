"""Where two in five targets are wrong, tuning on curated rows is right more often than on all or half of them."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

WRONG, TUNED = 0.4, 24_000
"""Share of targets that are another topic's, and tokens of each stage."""

CLAIM = Claim(
    paper="clear",
    says=(
        "Where two in five targets are wrong, tuning on the rows that CLEAR keeps and corrects gives a higher exact "
        "match than tuning on all rows, and than tuning on a random half, for as many tokens."
    ),
    task="intents",
    method=Arm(name="curated", methods=["full"], uses=["clear"]),
    baselines=[Arm(name="all", methods=["full"]), Arm(name="half", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a base of 3.4M parameters that follows no instruction: what is confident is the base tuned on the noisy "
    "rows, candidates are judged by confidence, and the two questions go unread; targets are topics, wrong ones drawn",
)


def noisy(seed: int) -> str:
    """A file of the quickstart's training rows, a share of them with another topic."""
    found = [json.loads(x) for x in (rows.QUICKSTART / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    topics, rng = sorted({r["completion"] for r in found}), random.Random(f"{seed}/wrong")
    for i in rng.sample(range(len(found)), round(WRONG * len(found))):
        found[i] = {**found[i], "completion": rng.choice([t for t in topics if t != found[i]["completion"]])}
    return rows.written(f"noisy-topics-{seed}", {"train": found})["train"]


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Exact match after each way."""
    train: dict[str, Any] = {"train": [{"path": noisy(seed), "name": "train"}]}
    limit = {"max_new_tokens": 12}
    filters = {"clear": {**limit, "model": "stages.all"}}
    corrects = {"clear": {**limit, "model": "stages.all", "candidates": "stages.filter", "judge": "confidence"}}

    def stage(name: str, **data: Any) -> dict[str, Any]:
        return {
            "name": name,
            "start": "base",
            "data": {**train, **data},
            "methods": ["full"],
            "budget": {"tokens": TUNED},
        }

    ways = {
        "curated": [stage("all"), stage("filter", synthesize=[filters]), stage("correct", synthesize=[corrects])],
        "all": [stage("all")],
        "half": [stage("half", select=[{"random": {"keep": "50%"}}])],
    }
    return {arm: run.trial(arm, seed, data=train, stages=stages).tuned.target for arm, stages in ways.items()}
