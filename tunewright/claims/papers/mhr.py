"""After several tasks, multi-head routing learns a new one from a few rows better than one weight a layer does."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

NEW = ("singular_to_plural", "num_to_verbal")
BEFORE = tuple(kind for kind in rows.INDUCTION if kind not in NEW)
SHOTS = 32
ARMS: dict[str, dict[str, Any]] = {"mhr": {"heads": 8}, "poly": {"heads": 1}}
CLAIM = Claim(
    paper="mhr",
    says="An inventory of eight pairs a layer that six kinds of instructions have trained learns a new kind from 32 "
    "rows to a loss that is lower by 0.02 nats a token where eight blocks of a layer are routed apart (MHR) than where "
    "each layer is routed as a whole (Poly).",
    task="induction",
    method=Arm(name="mhr", methods=[{"mhr": ARMS["mhr"]}]),
    baselines=[Arm(name="poly", methods=[{"mhr": ARMS["poly"]}])],
    metric="measured",
    direction="lower",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano", "real"),
    differs="six kinds of instructions before and two after, on a causal model, in the place of T0's and SuperNI's "
    "tasks on T5-XL; both arms tune all in the new stage; AdamW; one rate, the same for both",
)


def recipe_parts(kind: str, seed: int, own: dict[str, Any]) -> dict[str, Any]:
    """Rows and stages: all kinds of before as sources of their own, then so many rows of a new one."""
    new = rows.induction((kind,), validation=40)
    pool = [json.loads(line) for line in Path(new["train"]).read_text(encoding="utf-8").splitlines()]
    few = rows.written(f"mhr-{kind}-{seed}", {"few": random.Random(f"mhr/{seed}/{kind}").sample(pool, SHOTS)})
    many = [{"path": rows.induction((b,), validation=40)["train"], "name": b} for b in BEFORE]
    train = {"learning_rate": 3e-3, "batch_tokens": 256}
    first = {"name": "many", "methods": [{"mhr": own}], "train": train, "budget": {"tokens": 24_000}}
    second = {"name": "few", "start": "stages.many", "carry": "drop", "methods": [{"mhr": own}], "train": train}
    second |= {"data": {"train": [{"path": few["few"], "name": kind}]}, "budget": {"epochs": 10}}
    data = {
        "train": many,
        "validation": [{"path": new["validation"], "name": kind}],
        "eval": [{"path": new["eval"], "name": kind}],
    }
    return {"data": data, "stages": [first, second], "evaluation": {"metric": "loss", "rows": 100}}


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean loss on the new kinds' rows, each learnt from the same stage of six kinds."""
    found = {}
    for arm, own in ARMS.items():
        losses = [run.trial(arm, seed, **recipe_parts(kind, seed, own)).tuned.target for kind in NEW]
        found[arm] = sum(losses) / len(losses)
    return found
