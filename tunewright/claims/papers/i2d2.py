"""In rounds, what a critic accepts of a model's own statements makes it better; all of its statements do not."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import procedural, rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

TAUGHT, ROUND, ROUNDS = 8_000, 12_000, 2
"""Tokens of the stage on known answers and of each round."""
KNOWN, ASKED, JUDGED = 150, 300, 200
DRAWN = {"samples": 4, "max_new_tokens": 16}

CLAIM = Claim(
    paper="i2d2",
    says="A model that learns in two rounds from those of its own statements that a critic accepts answers more new "
    "prompts right than one that learns from all of its own statements, for as many tokens.",
    task="arithmetic",
    method=Arm(name="accepted", methods=["full"], uses=["i2d2", "exact-answer"]),
    baselines=[Arm(name="all", methods=["full"], uses=["i2d2", "exact-answer"])],
    metric="measured",
    direction="higher",
    smallest=0.03,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="functions of lists in the place of everyday concepts, and a critic that is always right in the place of a "
    "trained one; no lexical constraint (the claim i2d2--constraints has them); a base of 3.4M parameters",
)


def lists(seed: int, words: tuple[str, ...] = ()) -> dict[str, list[dict[str, Any]]]:
    """Rows of functions of lists (of those named by `words`, where there are any): known, asked for, and judged."""
    made, rng, seen = list[dict[str, Any]](), random.Random(f"{seed}/lists"), set[str]()
    while len(made) < KNOWN + ASKED + JUDGED:
        row = procedural.list_function(rng)
        if row["prompt"] not in seen and (not words or row["prompt"].split()[0] in words):
            seen.add(row["prompt"])
            made.append(row)
    return rows.cut(made, known=KNOWN, asked=ASKED, eval=JUDGED)


def stages(files: dict[str, str], maker: dict[str, Any], times: int = ROUNDS) -> list[dict[str, Any]]:
    """A stage on known answers, and rounds on own statements."""
    known, asked = ({"train": [{"path": files[n], "name": n}]} for n in ("known", "asked"))
    taught = {"name": "taught", "data": known, "methods": ["full"], "budget": {"tokens": TAUGHT}}
    own = {**asked, "synthesize": [{"i2d2": {**DRAWN, **maker}}, "exact-answer"]}
    return [taught, {"name": "own", "rounds": times, "data": own, "methods": ["full"], "budget": {"tokens": ROUND}}]


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Exact match on new prompts after the rounds."""
    files = rows.written(f"lists-{seed}", lists(seed))
    data = {"train": [{"path": files["known"]}], "eval": [{"path": files["eval"], "name": "eval"}], "validation": None}
    found = {}
    for arm, accept in (("accepted", 1.0), ("all", 0.0)):
        found[arm] = run.trial(arm, seed, data=data, stages=stages(files, {"accept": accept})).tuned.target
    return found
