"""The blocks that Flexora's search keeps are worth more than as many that are drawn."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.papers.flexora import FEW, FLEXORA, TUNE
from tunewright.loading.load import load

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

DRAWS = 2
CLAIM = Claim(
    paper="flexora",
    says="Low-rank changes in the blocks that a search by validation loss keeps are at least a point more accurate "
    "than in as many blocks that are drawn at random.",
    task="topics",
    method=FLEXORA,
    baselines=[Arm(name="drawn", methods=[{"lora": {"rank": 8}}])],
    metric="measured",
    direction="higher",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra=FEW,
    scales=("real",),
    differs="an encoder of six blocks and ten domains of queries, 200 rows; two draws a seed, whatever the "
    "search kept; one rate, the task's own, for all",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy, of draws the mean; beside it how many blocks were kept."""
    found = run.trial("flexora", seed)
    kept = int(found.probes["search: flexora"]["kept"])
    sites = load(run.task["model"], run.task["task"], labels=rows.DOMAINS).adapted().structure.linear_sites()
    blocks, rng, drawn = sorted({s.block for s in sites if s.block is not None}), random.Random(f"{seed}/flexora"), []
    for _ in range(DRAWS):
        some = rng.sample(blocks, kept)
        lora = {"rank": 8, "target_modules": [s.name for s in sites if s.block in some]}
        stage = {**TUNE, "methods": [{"lora": lora}]}
        drawn.append(float(run.trial("drawn", seed, stages=[stage]).tuned.target))
    return {"flexora": float(found.tuned.target), "drawn": sum(drawn) / DRAWS, "kept": float(kept)}
