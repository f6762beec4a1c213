"""A model that reads what a quality filter leaves knows good text better than one that reads as much of it all."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus, rows
from tunewright.claims.papers import _fresh

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

EACH, GOOD, TOKENS, RATE = 1500, 200, 800_000, 2e-3
KEEP = 0.4

CLAIM = Claim(
    paper="pretrainer-s-guide",
    says="From nothing, a model that reads the two fifths of a mixed pool which a classifier takes for likeliest to be "
    "good text has a lower loss on good text than one that reads the whole pool, for as many bytes: more than the "
    "text that is taken away is worth.",
    task="domain",
    method=Arm(name="filtered", methods=["full"], extra={"data": {"select": [{"quality-classifier": {"keep": KEEP}}]}}),
    baselines=[Arm(name="all", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a model of 0.2M parameters that reads 800,000 bytes, in the place of 1.5B; good text is encyclopedia's, "
    "whose loss is measured where the paper tunes on many tasks; the pool is web pages, transcripts, tweets and "
    "letters, fiction, and dialogues; rates are not tuned; neither toxicity nor age is compared",
)


@cache
def files() -> dict[str, str]:
    """Sentences of the pool, good ones to aim at, and others to judge by."""
    genres = corpus.rows("masc-genres/train.jsonl.gz")
    found = {
        "web": [r["text"] for r in corpus.rows("c4-web/train.jsonl.gz")],
        "genres": [r["text"] for r in genres],
        "dialogues": [str(r["prompt"]) for r in corpus.rows("hh-rlhf-harmless/train.jsonl.gz")[:4000]],
    }
    pool = [t for texts in found.values() for t in rows.shuffled(rows.sentences(texts))[:EACH]]
    good = [
        rows.shuffled(rows.sentences([r["text"] for r in corpus.rows(f"wiki-articles/{part}.jsonl.gz")]))[:GOOD]
        for part in ("valid", "test")
    ]
    parts = {"train": rows.shuffled(pool), "validation": good[0], "eval": good[1]}
    return rows.written("guide", {part: [{"text": t} for t in texts] for part, texts in parts.items()})


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of good text, nats a byte."""
    data: dict[str, Any] = {part: [{"path": path, "name": part}] for part, path in files().items()}
    how: dict[str, Any] = {"budget": {"tokens": TOKENS}, "train": {"learning_rate": RATE, "batch_tokens": 2048}}
    found = dict[str, float]()
    for arm in ("filtered", "all"):
        record = run.trial(arm, seed, model=_fresh.model(seed, 259), data=data, **how)
        found |= {"base": float(record.base.target), arm: float(record.tuned.target)}
    return found
