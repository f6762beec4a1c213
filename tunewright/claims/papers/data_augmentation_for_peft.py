"""On augmented rows, a contrast of classes makes prefix tuning more accurate where labels are few."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

LABELLED, TOKENS = 100, 20_000
PREFIX = {"prefix-tuning": {"num_virtual_tokens": 10, "prefix_projection": True, "encoder_hidden_size": 64}}
RATES = (1e-3, 3e-3, 1e-2)

CLAIM = Claim(
    paper="data-augmentation-for-peft",
    says=(
        "With 100 labelled rows and copies of them by swaps and deletions, prefix tuning with a supervised contrast of "
        "features is more accurate than without it."
    ),
    task="topics",
    method=Arm(name="contrast", methods=[PREFIX, "supervised-contrastive"], uses=["eda"], rates=RATES),
    baselines=[Arm(name="augmented", methods=[PREFIX], uses=["eda"], rates=RATES)],
    metric="measured",
    direction="higher",
    smallest=0.01,
    seeds=5,
    strengths=(1.0,),
    scales=("nano", "real"),
    differs="ten domains of queries; two of EDA's four operations, without synonyms; plain prefixes for P-tuning v2",
)


def few(seed: int) -> str:
    """A file of labelled rows, drawn by the seed out of the task's own."""
    found = [json.loads(line) for line in Path(rows.topics()["train"]).read_text(encoding="utf-8").splitlines()]
    random.Random(f"{seed}/few").shuffle(found)
    return rows.written(f"few-augmented-{seed}", {"train": found[:LABELLED]})["train"]


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy with and without the contrast, on the same copies."""
    data = {"train": [{"path": few(seed), "name": "train"}], "labels": list(rows.DOMAINS), "synthesize": ["eda"]}
    return {
        arm: run.trial(arm, seed, data=data, budget={"tokens": TOKENS}).tuned.target
        for arm in ("contrast", "augmented")
    }
