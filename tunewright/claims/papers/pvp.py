"""With few examples, modules that were trained upstream start better than fresh ones."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

SHOTS = 40
LORA = {"lora": {"rank": 8}}

CLAIM = Claim(
    paper="pvp",
    says="On five new classes with about eight examples each, a low-rank change that was trained on five other classes "
    "is right at least two points more often than one that starts at zero.",
    task="topics",
    method=Arm(name="pvp", methods=[{"pvp": {"upstream": ["stages.up"]}}]),
    baselines=[Arm(name="fresh", methods=["lora"])],
    metric="measured",
    direction="higher",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano", "real"),
    differs="topics of texts in the place of fine-grained pictures, one task of 8 examples a class (there 6.5 points "
    "at 8 shots); upstream is a thousand rows of other topics, not ImageNet; LoRA alone",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy on the second five of ten domains after so many of their rows, from upstream's modules and afresh."""
    data, labels = rows.halves(), list(rows.DOMAINS)
    train: dict[str, Any] = {"learning_rate": 1e-3, "batch_tokens": 256}
    up = {"name": "up", "methods": [LORA], "train": train, "budget": run.task["budget"]}
    few = {"name": "few", "start": "base", "train": train, "budget": {"epochs": 20}}
    pool = [json.loads(line) for line in Path(data["train-2"]).read_text(encoding="utf-8").splitlines()]
    shots = rows.written(f"pvp-{seed}", {"few": random.Random(f"pvp/{seed}").sample(pool, SHOTS)})
    few |= {"data": {"train": [{"path": shots["few"]}]}}
    judged = {"train": [{"path": data["train-1"]}], "eval": [{"path": data["eval-2"]}], "labels": labels}
    started = [up, {**few, "methods": [{"pvp": {"upstream": ["stages.up"]}}]}]
    fresh = [{**few, "methods": [LORA]}]
    return {
        "pvp": run.trial("pvp", seed, data=judged, stages=started).tuned.target,
        "fresh": run.trial("fresh", seed, data=judged, stages=fresh).tuned.target,
    }
