"""What claims on continual multi-task pre-training share: four pretexts that come one by one, all at once, or one by
one beside those before, with as many rows of each in all.
"""

from __future__ import annotations

import random
from functools import cache
from typing import TYPE_CHECKING, Any

from tunewright.claims import merging
from tunewright.claims.lab import corpus, rows
from tunewright.contract.records import Record
from tunewright.data.synthesize.ernie_2_0 import ERNIE2, Pretext, labels_of

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

PRETEXTS: tuple[Pretext, ...] = ("capitalisation", "token-document", "reordering", "distance")
LABELS = labels_of(PRETEXTS)
TEXTS, JUDGED, PAGES, LONGEST = 240, 100, 50, 400
"""Texts that rows are made of, others for rows that are judged, whole pages that these are of, letters of a text."""
WAYS: dict[str, list[dict[str, int]]] = {
    "sequential-multi-task": [
        {"capitalisation": 2},
        {"capitalisation": 1, "token-document": 3},
        {"capitalisation": 1, "token-document": 1, "reordering": 4},
        {"capitalisation": 1, "token-document": 1, "reordering": 1, "distance": 5},
    ],
    "sequential": [{name: 5} for name in PRETEXTS],
    "joint": [dict.fromkeys(PRETEXTS, 5)],
}
"""Way -> its stages' rows of each text: the authors' shares of the iterations, twenty rows of each text in all."""
RATE, BATCH = 1e-3, 1024


@cache
def texts() -> tuple[str, list[str]]:
    """(a file of the parts of web pages, parts of other pages)."""
    pages = [" ".join(str(r["text"]).split()) for r in rows.shuffled(corpus.rows("c4-web/train.jsonl.gz"))]
    parts = [
        [t[i : i + LONGEST].rpartition(" ")[0] for i in range(0, min(len(t), 4 * LONGEST), LONGEST)] for t in pages
    ]
    judged = [t for page in parts[:PAGES] for t in page if len(t) > LONGEST // 2][:JUDGED]
    learnt = rows.shuffled([t for page in parts[PAGES:] for t in page if len(t) > LONGEST // 2])[:TEXTS]
    return rows.written("pretexts", {"train": [{"text": t} for t in learnt]})["train"], judged


@cache
def judged() -> str:
    """A file of rows of all pretexts, as many of each, from texts that nothing was learnt of."""
    records = [Record({"text": t}, id=f"judged:{i}") for i, t in enumerate(texts()[1])]
    made = ERNIE2(pretexts=dict.fromkeys(PRETEXTS, 2)).synthesize(records, random.Random(0))
    kept = [dict(m.values) for m in made if not m.thrown]
    least = min(sum(r["pretext"] == p for r in kept) for p in PRETEXTS)
    each = [r for p in PRETEXTS for r in [r for r in kept if r["pretext"] == p][:least]]
    return rows.written("pretexts-judged", {"eval": each})["eval"]


def learnt(run: ClaimRun, arm: str, seed: int, model: str) -> Any:
    """The recipe by which an arm learns the pretexts in its way; judged on rows of all four."""
    source = [{"path": texts()[0], "name": "texts", "format": "text"}]
    stages = [
        {
            "name": f"pretexts-{i}",
            "data": {"train": source, "synthesize": [{"ernie-2-0": {"pretexts": pretexts}}]},
            "budget": {"epochs": 1},
        }
        for i, pretexts in enumerate(WAYS[arm], 1)
    ]
    data = {
        "train": [{"name": "train", "path": judged(), "limit": 8}],  # stages have rows of their own
        "eval": [{"name": "eval", "path": judged()}],
        "validation": None,
        "labels": LABELS,
        "max_length": 96,
    }
    train = {"learning_rate": RATE, "batch_tokens": BATCH, "head": "random"}
    return run.recipe(arm, seed, model=model, data=data, stages=stages, train=train, evaluation={"rows": 2000})


def folder(run: ClaimRun, arm: str, seed: int, model: str) -> str:
    """The folder of the model after its pretexts."""
    return merging.folder_of(merging.finished(run, learnt(run, arm, seed, model)).folder)
