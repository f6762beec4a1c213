"""A model that has read the texts of both domains carries labels of one over to the other better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims import merging
from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus, rows
from tunewright.claims.papers import _reading_on as reading

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

SOURCE, TARGET, LABELLED, READ = "movie-snippet", "pros-cons", 1000, 60_000

CLAIM = Claim(
    paper="cpt-uda",
    says="Labels of the source alone give better accuracy on the target after reading unlabelled texts of both than "
    "without reading, and than after reading as much of the source alone.",
    task="topics",
    method=Arm(name="both", methods=["full"]),
    baselines=[Arm(name="source-only", methods=["full"]), Arm(name="source-texts", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a masked encoder with a classifier's head instead of a model that answers an instruction; film snippets "
    "and buyers' pros and cons, of which the base has read some before; no method of domain invariance beside it",
)


def labelled(part: str, domain: str) -> list[dict[str, Any]]:
    """Rows of a domain, in an order drawn once."""
    found = [r for r in corpus.rows(f"sentiment-domains/{part}.jsonl.gz") if r["domain"] == domain]
    return [{"text": r["text"], "label": ("negative", "positive")[int(r["label"])]} for r in rows.shuffled(found)]


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy on the target's test rows."""
    source, target = labelled("train", SOURCE), labelled("train", TARGET)
    parts = {"train": source[:LABELLED], "validation": labelled("valid", SOURCE), "eval": labelled("test", TARGET)}
    files = rows.written("uda", parts)
    data = {part: [{"name": part, "path": path}] for part, path in files.items()}
    unlabelled = [r["text"] for r in source[:4000]], [r["text"] for r in target[:4000]]
    read = {
        "both": reading.texts("uda-both", [*unlabelled[0], *unlabelled[1]]),
        "source-texts": reading.texts("uda-source", unlabelled[0]),
    }
    models = {"source-only": "nano-encoder"}
    for arm, file in read.items():
        judged = {part: [{"name": part, "path": files[part], "format": "text"}] for part in ("validation", "eval")}
        made = reading.recipe(run, arm, seed, [(file, READ)], judged=judged)
        models[arm] = merging.folder_of(merging.finished(run, made).folder)
    return {a: float(run.trial(a, seed, model=models[a], data=data).tuned.target) for a in models}
