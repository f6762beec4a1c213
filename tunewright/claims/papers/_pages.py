"""What claims about the order and weight of pre-training rows share: English pages of unlike difficulty, and a fresh
model that goes through them once. The run in random order and with equal weights is made once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from tunewright.claims.lab import corpus, rows
from tunewright.claims.papers import _fresh

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

LONGEST, RATE, TOKENS = 400, 3e-3, 420_000
"""Letters of a page; a rate for all arms; the tokens of nearly a whole pass."""
COUNTS = {"train": 750, "test": 50}
"""Pages of each of the four kinds."""


def _texts(part: str) -> dict[str, list[str]]:
    """Each kind's pages: spoken and written genres in pieces, medical answers, problems with solutions, short
    sentences in groups.
    """
    genres = [r["text"] for r in corpus.rows(f"masc-genres/{part}.jsonl.gz")]
    said = [r["en"] for r in rows.shuffled(corpus.rows(f"tanaka-enja/{part}.jsonl.gz"))]
    return {
        "genres": [t[i : i + LONGEST] for t in genres for i in range(0, len(t) - LONGEST, LONGEST)],
        "medicine": [r["answer"] for r in corpus.rows(f"medquad/{part}.jsonl.gz")],
        "problems": [f"{r['question']}\n{r['answer']}" for r in corpus.rows(f"gsm8k/{part}.jsonl.gz")],
        "sentences": [" ".join(said[i : i + 8]) for i in range(0, len(said), 8)],
    }


@cache
def files() -> dict[str, str]:
    """Files of pages: `train`, and `test` of other documents."""
    parts = {}
    for part, count in COUNTS.items():
        kinds = [rows.shuffled(list(dict.fromkeys(texts)))[:count] for texts in _texts(part).values()]
        parts[part] = [{"text": t[:LONGEST].rpartition(" ")[0] or t} for t in rows.shuffled(sum(kinds, []))]
    return rows.written("pages", parts)


def loss_of(
    run: ClaimRun, arm: str, seed: int, *beside: Any, tokens: int = TOKENS, select: Sequence[Any] = ()
) -> float:
    """Loss of new pages, nats a token, after `tokens` of the others, chosen or ordered by `select` and trained on by
    `full` and what stands beside it.
    """
    pages = [{"path": files()["train"], "name": "pages"}]
    data = {  # under the names that the lab task has them by, which they take the place of
        "train": [{"path": files()["train"], "name": "train"}],
        "eval": [{"path": files()["test"], "name": "eval"}],
        "validation": None,
    }
    stage = _fresh.stage("pretraining", pages, tokens, RATE, methods=["full", *beside])
    if select:
        stage["data"] = {**stage["data"], "select": list(select)}
    record = run.trial(arm, seed, model=_fresh.model(seed), data=data, stages=[stage])
    return float(record.tuned.target)
