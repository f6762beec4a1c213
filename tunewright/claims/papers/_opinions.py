"""What claims about coding few sentences share: opinions of products, said in words behind a pattern, after many of
another kind.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from tunewright.claims.lab import corpus, rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

FEW, NEAR, ASKED = 32, 1500, 300
"""Sentences that are learnt from, those of the near domain, and those that are judged; half of them of either code."""
WORDS = ("bad", "good")
PATTERN = "{prompt}\nIt was"


def _even(part: str, domain: str, count: int) -> list[dict[str, str]]:
    """Sentences of a domain ("product": of all of them), as many of either code."""
    found = rows.shuffled([r for r in corpus.rows(f"sentiment-domains/{part}.jsonl.gz") if domain in r["domain"]])
    kinds = [[r for r in found if r["label"] == k and len(r["text"]) < 200][: count // 2] for k in (0, 1)]
    told = [{"prompt": r["text"], "completion": WORDS[r["label"]]} for kind in kinds for r in kind]
    return rows.shuffled(told)


@cache
def files() -> dict[str, str]:
    """`near`: pros and cons from other pages; `few` and `eval`: sentences of reviews of products."""
    parts = {
        "near": _even("train", "pros-cons", NEAR),
        "few": _even("train", "product", FEW),
        "eval": _even("test", "product", ASKED),
    }
    return rows.written("opinions", parts)


def accuracy(run: ClaimRun, arm: str, seed: int, *, near: bool = True) -> float:
    """Share of sentences whose word is told, after few of them, and before these many of the near domain."""
    data, methods = files(), run.arm(arm).methods

    def stage(name: str, budget: dict[str, Any], **more: Any) -> dict[str, Any]:
        train = [{"path": data[name], "name": name}]
        return {"name": name, "data": {"train": train}, "methods": methods, "budget": budget, **more}

    carry = {"carry": "fold" if methods == ["full"] else "training"} if near else {}
    stages = [stage("few", {"epochs": 8}, **carry)]
    if near:
        stages.insert(0, stage("near", {"epochs": 1}))
    given = {
        "train": [{"path": data["few"], "name": "train"}],
        "eval": [{"path": data["eval"], "name": "eval"}],
        "validation": None,
        "template": PATTERN,
        "chat": False,
    }
    record = run.trial(arm, seed, data=given, stages=stages, keep=[])
    return float(record.tuned.target)
