"""Seven functions of lists of digits, learnt one after the other by a model that knows some of each: what claims about
forgetting under supervision and reinforcement share.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from tunewright.claims import merging
from tunewright.claims.lab import procedural, rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

START, EACH = 30_000, 3_000
"""Tokens of all kinds together before the sequence, and of each task's rows in it."""
SUPERVISED: dict[str, Any] = {"train": {"learning_rate": 3e-4}}
REINFORCED: dict[str, Any] = {"train": {"learning_rate": 3e-4}}
GRPO = ["full", {"grpo": {"samples": 6, "max_new_tokens": 12, "beta": 0.0}}, "exact-answer"]


def files() -> dict[str, str]:
    """Files of rows with their `kind`, a function's name: 28 of each to measure and 10 to validate."""
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "eval": []}
    made = procedural.make([procedural.list_function], 6000, seed=21)
    for kind in sorted(procedural.LISTS):
        own = [{**r, "kind": kind} for r in made if r["prompt"].split()[0] == kind]
        parts["eval"] += own[:28]
        parts["validation"] += own[28:38]
        parts["train"] += own[38:638]
    rng = random.Random(21)
    return rows.written("seven-tasks", {n: rng.sample(found, len(found)) for n, found in parts.items()})


def _data() -> dict[str, Any]:
    there = files()
    return {"train": [{"path": there["train"], "name": "train"}], **{n: there[n] for n in ("validation", "eval")}}


def generalist(run: ClaimRun, arm: str, seed: int) -> str:
    """The folder of the lab's base after it has read rows of all kinds together, under supervision."""
    start = {"name": "start", "methods": ["full"], "budget": {"tokens": START}, "train": {"learning_rate": 1e-3}}
    recipe = run.recipe(arm, seed, data=_data(), stages=[start])
    return merging.folder_of(merging.finished(run, recipe).folder)


def sequence(run: ClaimRun, arm: str, seed: int, model: str) -> Any:
    """The record of an arm that goes on from a folder with one kind after the other, in an order drawn by the seed."""
    tasks = {"by": "kind", "order_seed": seed}
    return run.trial(arm, seed, model=model, data=_data(), tasks=tasks, budget={"tokens": EACH})
