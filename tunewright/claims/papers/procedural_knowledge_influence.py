"""Two questions that ask for one procedure are answered from the same documents, two facts from documents apart."""

from __future__ import annotations

import json
import random
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus, rows
from tunewright.data.generators.tint import Rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

DOCUMENTS, ASKED, EPOCHS = 100, 6, 6
"""Documents of either kind that are learnt, questions of either kind, and passes."""
SELECT = {"procedural-knowledge-influence": {"keep": 0.5, "fit": 64}}
CLAIM = Claim(
    paper="procedural-knowledge-influence",
    says="Over the documents that a model learnt, the EK-FAC influences on the answers to two questions of one "
    "procedure with different numbers correlate more, by at least 0.1, than those on the answers to two questions for "
    "facts.",
    task="arithmetic",
    method=Arm(name="procedure", methods=["full"], uses=["procedural-knowledge-influence"]),
    baselines=[Arm(name="facts", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.1,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra={"measurement": {"rows": 8, "drift_sequences": 4}},
    scales=("nano",),
    differs="a model of 3.4M parameters and 200 documents that it has just learnt, sums of three to five digits in "
    "steps and facts of ten relations, in the place of 5 million documents and models of 7B and 35B; whether documents "
    "show code or an answer is not looked at",
)


def parts(seed: int) -> dict[str, list[dict[str, Any]]]:
    """`train`, documents of both kinds, and questions procedure-0 ..., which no document has, and facts-0 ..., each of
    which a document states.
    """
    told = Rows(rows=DOCUMENTS + ASKED, seed=seed, functions=["sum"], fewest=3, most=5, digits=1)
    sums = [{"prompt": r["prompt"], "completion": r["completion"]} for r in told.make()]
    rng = random.Random(f"{seed}/procedural")
    patterns = {r["relation"]: r["patterns"] for r in corpus.rows("pararel-trex/relations.jsonl.gz")}
    known = corpus.rows("pararel-trex/facts.jsonl.gz")
    facts = []
    for relation in rng.sample(sorted(patterns), 10):
        said = next((p for p in patterns[relation] if p.rstrip(" .").endswith("[Y]")), None)
        if said is not None:
            some = rng.sample([f for f in known if f["relation"] == relation], 40)
            facts += [_fact(said, f["subject"], f["object"]) for f in some]
    facts = rng.sample(facts, DOCUMENTS)
    out = {"train": rows.shuffled([*sums[ASKED:], *facts], seed)}
    out |= {f"procedure-{i}": [sums[i]] for i in range(ASKED)}
    return out | {f"facts-{i}": [facts[i]] for i in range(ASKED)}


def _fact(said: str, subject: str, answer: str) -> dict[str, Any]:
    before = said.replace("[X]", subject).rpartition("[Y]")[0].rstrip()
    return {"prompt": before, "completion": f" {answer}."}


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean correlation over pairs of questions of either kind, of influences over all documents."""
    files = rows.written(f"procedural-{seed}", parts(seed))
    learnt = [{"path": files["train"], "name": "train"}]
    named = [name for name in files if name != "train"]
    stages = [
        {"name": "learnt", "methods": ["full"], "data": {"train": learnt}, "budget": {"epochs": EPOCHS}},
        {
            "name": "main",
            "start": "stages.learnt",
            "carry": "fold",
            "methods": ["full"],
            "data": {
                "train": learnt,
                "select": [SELECT],
            },
            "budget": {"steps": 1},
        },
    ]
    data = {"validation": None, "train": learnt}
    aimed = {"validation": [{"path": files[n], "name": n} for n in named]}
    record = run.trial("procedure", seed, keep_artefacts=True, stages=stages, data={**data, **aimed})
    text = (Path(record.folder) / "selection" / "main.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.strip("\n").split("\n")[1:]]
    scores = {n: [line["scores"][f"procedural-knowledge-influence.on {n}"] for line in lines] for n in named}

    def together(kind: str) -> float:
        some = np.corrcoef([scores[n] for n in named if n.startswith(kind)])
        return float(np.mean([some[i, j] for i, j in combinations(range(len(some)), 2)]))

    return {"procedure": together("procedure"), "facts": together("facts")}
