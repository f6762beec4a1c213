"""A family of small tasks on bank customers' messages: what claims about drawing from other tasks' adapters share."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.claims.lab import corpus, rows
from tunewright.errors import ClaimError

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

TOPICS = (
    ("disposable card limits", "getting spare card", "visa or mastercard", "apple pay or google pay"),
    ("transfer fee charged", "failed transfer", "declined transfer", "cash withdrawal charge"),
    ("exchange charge", "fiat currency support", "edit personal details", "country support"),
)
"""Three kinds of messages. A task is which of them are answered with yes: one of six, all and none left out."""
UPSTREAM, NEW, LEARNT, PICKED, JUDGED = 18, 4, 64, 64, 100
"""Tasks before and after; rows that an upstream task trains on, a new one picks by, and it is judged on."""
LORA = {"lora": {"rank": 1}}
TAUGHT: dict[str, Any] = {"budget": {"epochs": 6}, "train": {"learning_rate": 3e-3, "batch_tokens": 128}}


def _task(rng: random.Random) -> frozenset[str]:
    """The topics that a task answers with yes."""
    kinds = rng.randrange(1, 7)
    return frozenset(topic for i, group in enumerate(TOPICS) if kinds >> i & 1 for topic in group)


def _labelled(some: list[dict[str, Any]], yes: frozenset[str]) -> list[dict[str, Any]]:
    return [{"text": r["prompt"].split("\n")[-1], "label": "yes" if r["completion"] in yes else "no"} for r in some]


def report_of(run: ClaimRun, arm: str, seed: int, **new: Any) -> dict[str, Any]:
    """The report of a run that trains the upstream tasks and then, each from the base, the arm's stage n0, n1 ... on
    each new task. `new`: keys of those stages.
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
    stages: list[dict[str, Any]] = [{"name": f"t{i}", "methods": [LORA], **TAUGHT} for i in range(UPSTREAM)]
    stages += [{"name": f"n{i}", **new} for i in range(NEW)]
    stages = [{**s, "start": "base", "data": {"train": [{"path": files[s["name"]]}]}} for s in stages]
    # the first takes the place of the lab task's own, which goes by this name
    judged = [{"path": files[f"e{i}"], "name": f"e{i}" if i else "eval"} for i in range(NEW)]
    data = {"train": [{"path": files["n0"]}], "validation": None, "eval": judged, "labels": ["no", "yes"]}
    record = run.trial(
        arm, seed, keep_artefacts=True, data=data, stages=stages, measurement={"rows": NEW * JUDGED, "few_shot": 0}
    )
    report: dict[str, Any] = json.loads((Path(record.folder) / "report.json").read_text(encoding="utf-8"))
    return report


def errors_of(report: dict[str, Any]) -> list[float]:
    """Share of wrong answers of each new task's model on that task's rows. ClaimError where too few rows were measured
    to reach every task, as in a run that is cut short.
    """
    found = {s["name"]: s["tasks"] for s in report["stages"]}
    named = [(f"n{i}", f"e{i}" if i else "eval") for i in range(NEW)]
    if missed := [source for stage, source in named if source not in found[stage]]:
        raise ClaimError(f"no row of {', '.join(missed)} was measured")
    return [1 - float(found[stage][source]["value"]) for stage, source in named]
