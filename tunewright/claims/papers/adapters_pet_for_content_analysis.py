"""Adapters that say a code in words behind a pattern do as well as full tuning of a new head, where rows are few."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus, rows
from tunewright.claims.papers._tuned import rate

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

NEAR, FEW, HELD, JUDGED = 600, 40, 100, 200
WORDS = ("bad", "good")
RATES = {"adapters": (1e-3, 3e-3), "few-alone": (1e-3, 3e-3), "plain": (3e-4, 1e-3)}
SHARED: dict[str, Any] = {
    "task": "intents",
    "metric": "measured",
    "direction": "higher",
    "seeds": 5,
    "rates": (),
    "strengths": (1.0,),
    "extra": {"keep": [], "evaluation": {"rows": JUDGED, "max_new_tokens": 4}},
    "scales": ("nano",),
}
DIFFERS = (
    "English opinions of products that are good or bad, phrases of reviews as the near domain, and a causal model of "
    "3.4M parameters that writes the word, instead of claims and stances in German news and multilingual encoders that "
    "fill a gap; each arm's rate is the better of two"
)
ADAPTERS = Arm(name="adapters", methods=["bottleneck-adapters"])
CLAIM = Claim(
    paper="adapters-pet-for-content-analysis",
    says="From 40 coded sentences, after a near domain, adapters that learn to say the code behind a pattern are right "
    "at most two points less often than a model that is tuned whole under a new head.",
    method=ADAPTERS,
    baselines=[Arm(name="plain", methods=["full"])],
    smallest=-0.02,
    differs=DIFFERS,
    **SHARED,
)


def sources(seed: int) -> dict[str, str]:
    """Files of each part, half of their rows good; the few are drawn by the seed, all others are the same."""
    kinds: dict[tuple[bool, int], list[dict[str, str]]] = {}
    for r in rows.shuffled(corpus.rows("sentiment-domains/train.jsonl.gz")):
        if r["domain"].startswith(("product:", "pros-cons")):
            row = {"text": r["text"][:200], "word": WORDS[r["label"]]}
            kinds.setdefault((r["domain"] == "pros-cons", r["label"]), []).append(row)
    near, own = ([x for pair in zip(kinds[far, 0], kinds[far, 1], strict=False) for x in pair] for far in (True, False))
    parts = rows.cut(own, eval=JUDGED, validation=HELD, pool=800)
    pool = parts.pop("pool")
    few = [x for word in WORDS for x in random.Random(f"{word}/{seed}").sample(pool[WORDS.index(word) :: 2], FEW // 2)]
    return rows.written(f"coded-{seed}", {"near": near[:NEAR], "few": few, **parts})


def accuracy(run: ClaimRun, arm: str, seed: int, near: bool = True, judged: str = "eval", at: float = 0.0) -> Any:
    """The record of an arm's run: from the near domain, or not, to the few rows."""
    files, written = sources(seed), arm != "plain"
    answer = {"completion": "word", "prompt": "text"} if written else {"label": "word"}
    form: dict[str, Any] = {"template": "{prompt}\nThis is {completion}", "chat": False} if written else {}
    form |= {} if written else {"labels": list(WORDS)}

    def source(part: str) -> list[dict[str, Any]]:
        return [{"path": files[part], "columns": answer}]

    stages: list[dict[str, Any]] = [
        {"name": "near", "data": {"train": source("near")}, "budget": {"epochs": 1}},
        {"name": "few", "data": {"train": source("few")}, "budget": {"epochs": 10}},
    ]
    if near and written:
        stages[1]["carry"] = "training"
    data = {"train": source("few"), "validation": None, "eval": source(judged), **form}
    train = {"learning_rate": at, "batch_tokens": 256}
    task = "text-generation" if written else "text-classification"
    return run.trial(arm, seed, task=task, data=data, train=train, stages=stages if near else stages[1:])


def best(run: ClaimRun, arm: str, seed: int, near: bool = True) -> Any:
    """The record at the rate that the first seed's validation rows choose."""
    at = rate(RATES[arm], lambda at: accuracy(run, arm, run.first, near, "validation", at))
    return accuracy(run, arm, seed, near, at=at)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of sentences that are coded right; beside it by the untouched base under a new head."""
    found = {arm.name: best(run, arm.name, seed) for arm in run.claim.arms}
    return {
        **{arm: float(record.tuned.target) for arm, record in found.items()},
        "base": float(found["plain"].base.target),
    }
