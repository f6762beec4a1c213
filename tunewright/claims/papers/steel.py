"""A few rows certify what was picked among draws from other tasks' adapters, and nothing that gradients would learn."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus, rows
from tunewright.pieces import certificates

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

TOPICS = (
    ("disposable card limits", "getting spare card", "visa or mastercard"),
    ("transfer fee charged", "failed transfer", "declined transfer"),
    ("exchange charge", "fiat currency support", "cash withdrawal charge"),
    ("edit personal details", "country support", "apple pay or google pay"),
)
"""Four kinds of messages. A task is which of them are answered with yes: one of fourteen, all and none left out."""
UPSTREAM, NEW, LEARNT, PICKED, JUDGED = 20, 4, 96, 80, 150
"""Tasks before and after; rows that an upstream task trains on, a new one picks by, and it is judged on."""
GUESSING = 0.5

CLAIM = Claim(
    paper="steel",
    says="In nearly all new tasks the error of what 80 rows pick of 500 draws is certified, with 95 % confidence, to "
    "be less than that of guessing, and truly is less than the certificate; what gradients would learn over as many "
    "numbers as one adapter has is certified in none, were it right on all 80 rows.",
    task="topics",
    method=Arm(
        name="steel", methods=[{"steel": {"upstream": [f"stages.t{i}" for i in range(UPSTREAM)], "samples": 500}}]
    ),
    baselines=[Arm(name="gradients", methods=["lora"])],
    metric="measured",
    direction="higher",
    smallest=0.9,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="20 upstream adapters of rank one on an encoder of four blocks, and tasks of two classes drawn from "
    "fourteen, four new ones a seed, where the paper has CLIP, language models and up to 10,000 upstream tasks; true "
    "errors are of 150 rows",
)


def _task(rng: random.Random) -> frozenset[str]:
    """The topics that a task answers with yes."""
    kinds = rng.choice([k for k in range(1, 15)])
    return frozenset(topic for i, group in enumerate(TOPICS) if kinds >> i & 1 for topic in group)


def _labelled(some: list[dict[str, Any]], yes: frozenset[str]) -> list[dict[str, Any]]:
    return [{"text": r["prompt"].split("\n")[-1], "label": "yes" if r["completion"] in yes else "no"} for r in some]


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of new tasks whose certificate is below guessing and no less than the true error; of gradients, whose best
    possible certificate is below guessing.
    """
    train, test = (
        [json.loads(line) for line in (corpus.QUICKSTART_KEEP.parent / f"{part}.jsonl").read_text("utf-8").splitlines()]
        for part in ("train", "test")
    )
    rng = random.Random(f"steel/{seed}")
    rng.shuffle(train)
    before, after = train[:600], train[600:]
    parts: dict[str, Any] = {}
    for i in range(UPSTREAM):
        parts[f"t{i}"] = _labelled(rng.sample(before, LEARNT), _task(rng))
    for i in range(NEW):
        yes = _task(rng)
        parts[f"n{i}"] = _labelled(rng.sample(after, PICKED), yes)
        parts[f"e{i}"] = _labelled(rng.sample(test, JUDGED), yes)
    files = rows.written(f"steel-{seed}", parts)
    lora = {"lora": {"rank": 1}}
    stages: list[dict[str, Any]] = [
        {"name": f"t{i}", "methods": [lora], "budget": {"epochs": 5}, "train": {"learning_rate": 3e-3}}
        for i in range(UPSTREAM)
    ]
    stages += [{"name": f"n{i}", "budget": {"epochs": 1}, "train": {"batch_tokens": 4096}} for i in range(NEW)]
    stages = [{**s, "start": "base", "data": {"train": [{"path": files[s["name"]]}]}} for s in stages]
    # the first takes the place of the lab task's own, which goes by this name
    judged = [{"path": files[f"e{i}"], "name": f"e{i}" if i else "eval"} for i in range(NEW)]
    data = {"train": [{"path": files["n0"]}], "validation": None, "eval": judged, "labels": ["no", "yes"]}
    record = run.trial(
        "steel", seed, keep_artefacts=True, data=data, stages=stages, measurement={"rows": NEW * JUDGED, "few_shot": 0}
    )
    report = json.loads((Path(record.folder) / "report.json").read_text(encoding="utf-8"))
    found = {s["name"]: s["tasks"] for s in report["stages"]}
    certified = by_gradients = 0
    for i in range(NEW):
        told = report["probes"][f"n{i}: steel"]["values"]
        bound, error = told["certified error (binomial)"], 1 - found[f"n{i}"][judged[i]["name"]]["value"]
        certified += error <= bound < GUESSING
        numbers = told["numbers of an upstream change"]
        by_gradients += certificates.continuous(PICKED, numbers, 0.05) < GUESSING
    return {"steel": certified / NEW, "gradients": by_gradients / NEW}
