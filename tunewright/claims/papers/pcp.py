"""Read on in the prompt with labels that a tuned model gave, a model learns the prompt better from few rows."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.data import quickstart

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

LABELLED, POOL = 60, 600
TASK, READ = 12_000, 24_000
"""Tokens of a stage on labelled rows, and of the one that reads the pool."""

CLAIM = Claim(
    paper="pcp",
    says="A model that reads unlabelled texts on, in the prompt with labels given by a prompt-tuned model, learns the "
    "prompt from few labelled rows to a better exact match than without reading and than after reading them plain.",
    task="intents",
    method=Arm(name="pcp", methods=["full"], uses=["pcp"]),
    baselines=[Arm(name="prompt", methods=["full"]), Arm(name="tapt", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a causal base of 3.4M parameters that writes the label, and twelve topics of bank customers' messages; 60 "
    "labelled rows and 600 others; rates taken once",
)


def drawn(seed: int) -> tuple[str, str, list[str]]:
    """(labelled rows, texts of others, the labels), drawn by the seed out of the quickstart's training rows."""
    file = Path(quickstart.__file__).parent / "train.jsonl"
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    random.Random(f"{seed}/labelled").shuffle(found)
    pool = [{"text": r["prompt"]} for r in found[LABELLED : LABELLED + POOL]]
    made = rows.written(f"few-prompts-{seed}", {"train": found[:LABELLED], "pool": pool})
    return made["train"], made["pool"], sorted({r["completion"] for r in found})


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Exact match on 200 rows after each way to the labelled rows."""
    few, pool, labels = drawn(seed)
    labelled: dict[str, Any] = {"train": [{"path": few, "name": "few"}]}
    task = {"data": labelled, "methods": ["full"], "budget": {"tokens": TASK}}
    plain: dict[str, Any] = {"train": [{"path": pool, "name": "pool"}]}
    filled = {**plain, "synthesize": [{"pcp": {"model": "stages.teacher", "labels": labels}}]}
    ways = {
        "pcp": [{"name": "teacher", **task}, _read(filled), {"name": "task", "start": "stages.read", **task}],
        "prompt": [{"name": "task", **task}],
        "tapt": [_read(plain), {"name": "task", "start": "stages.read", **task}],
    }
    return {arm: run.trial(arm, seed, data=labelled, stages=stages).tuned.target for arm, stages in ways.items()}


def _read(data: dict[str, Any]) -> dict[str, Any]:
    return {"name": "read", "start": "base", "data": data, "methods": ["full"], "budget": {"tokens": READ}}
