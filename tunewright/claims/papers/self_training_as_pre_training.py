"""Few labels made by hand do better behind a warm start on a pool that a tuned model labelled."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

LABELLED, POOL = 80, 1500
BY_HAND, ON_THE_POOL = 10_000, 30_000
"""Tokens of a stage on the labels made by hand, and of the one on the pool's."""

CLAIM = Claim(
    paper="self-training-as-pre-training",
    says=(
        "Where few labels exist, a model that first learns from what a tuned one says of a large pool, and then from "
        "the labels made by hand, is more accurate than from the labels alone, however long."
    ),
    task="topics",
    method=Arm(name="pool-first", methods=["full"], uses=["self-training-as-pre-training"]),
    baselines=[Arm(name="labels", methods=["full"]), Arm(name="labels-as-long", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.01,
    strengths=(1.0,),
    rates=(),
    real={"seeds": 5},
    differs="80 labelled queries of ten domains and a pool of 1,500 queries of the same kind, every label of the pool "
    "kept; all stages have the lab task's own rate",
)


def drawn(path: str, seed: int) -> tuple[str, str]:
    """Files of labelled rows and of a pool without labels, drawn by the seed out of a file of rows."""
    found = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    random.Random(f"{seed}/labelled").shuffle(found)
    pool = [{"text": r["text"]} for r in found[LABELLED : LABELLED + POOL]]
    made = rows.written(f"few-labels-{seed}", {"train": found[:LABELLED], "pool": pool})
    return made["train"], made["pool"]


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy after the three stages, after the labels alone, and after the labels for as many tokens in all."""
    few, pool = drawn(rows.topics()["train"], seed)
    by_hand: dict[str, Any] = {"methods": ["full"], "budget": {"tokens": BY_HAND}}
    label = {"self-training-as-pre-training": {"model": "stages.teacher"}}
    stages = [
        {"name": "teacher", **by_hand},
        {
            "name": "pool",
            "start": "base",
            "data": {"train": [{"path": pool, "name": "pool"}], "synthesize": [label]},
            "methods": ["full"],
            "budget": {"tokens": ON_THE_POOL},
        },
        {"name": "task", "start": "stages.pool", **by_hand},
    ]
    data = {"train": [{"path": few, "name": "train"}], "labels": list(rows.DOMAINS)}
    longest = {"tokens": 2 * BY_HAND + ON_THE_POOL}
    records = {
        "pool-first": run.trial("pool-first", seed, data=data, stages=stages),
        "labels": run.trial("labels", seed, data=data, budget={"tokens": BY_HAND}),
        "labels-as-long": run.trial("labels-as-long", seed, data=data, budget=longest),
    }
    return {name: record.tuned.target for name, record in records.items()}
